"""Value objects of intake: shard, raw batch, validation report."""

import operator
from typing import Literal

from pydantic import Field

from alignment.contracts.values import Record, Sha256, ValueObject


class SourceShard(ValueObject):
    """One file of a preference source that was listed but not read yet."""

    source: str
    uri: str
    num_bytes: int
    fingerprint: str
    """Identifies this version of the file: a checksum or ETag, else size and modification time."""


class ShardGroup(Record):
    """Shards that one task reads: the shards themselves, or a part of a listing in the store."""

    num_shards: int
    shards: tuple[SourceShard, ...] = ()
    """The shards; empty for a part of a listing."""
    listing_uri: str = ""
    """JSON list of all shards."""
    first: int = 0
    """Position of the group's first shard in the listing."""


class ShardFailure(Record):
    """A shard that could not be read or whose batch did not pass."""

    source: str
    shard: str
    reason: str
    may_pass: bool = False
    """True when another try may help: the shard or the store could not be reached."""


class IngestCounts(Record):
    """Outcome of the shards of one task or run: batches that passed, their rows, and the failures."""

    shards: int = 0
    batches: int = 0
    pairs_in: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0
    withdrawn: int = 0
    failures: tuple[ShardFailure, ...] = ()


class SourceFacts(Record):
    """Facts of a source that are known without reading its pairs."""

    num_shards: int
    num_rows: int
    """Number of rows; for many shards an estimate from some of them."""
    is_estimate: bool = False
    is_unpaired: bool = False
    """True if each row has one image, liked or disliked."""


class RawBatch(ValueObject):
    """Unfiltered pairs of one shard, in Plumbline's columns, with image facts. The folder holds pairs.parquet."""

    uri: str
    content_digest: Sha256
    source: str
    source_file: str
    num_rows: int
    num_withdrawn: int = Field(default=0, exclude_if=operator.not_)
    """Further rows of the shard, which are left out because they are withdrawn."""


class QuarantinedShard(Record):
    """The outcome of the validation of one shard, and where its quarantined rows are."""

    source: str
    shard: str
    num_rows: int
    num_accepted: int
    num_quarantined: int
    """Rows of `rows_uri`: those that broke a rule, and copies."""
    num_duplicates: int = 0
    """Quarantined rows that only repeat another row of the shard."""
    reasons: dict[str, int]
    """Number of quarantined rows by broken rule, most frequent first; a row may break several rules."""
    failure: str
    """Reason why the whole batch may not be used; empty if it may."""
    data_docs_uri: str
    """Page with the result of every rule."""
    rows_uri: str
    """Table of the quarantined rows."""
    is_replay: bool = False
    """True for the second validation of rows that the first one of the shard had quarantined."""


class RuleResult(Record):
    """Result of one rule on a batch."""

    rule: str
    severity: Literal["critical", "warning", "info"]
    checked: int
    failed: int
    example_rows: tuple[int, ...] = ()
    """Row numbers in the source of up to five rows that broke the rule, without their contents."""


class ValidationReport(ValueObject):
    """Results of every rule, and the folder of the accepted and the quarantined rows.

    The folder holds accepted.parquet, quarantine.parquet (source_file, source_row, pair_id, reasons and the row) and
    data_docs/ (without prompts).
    """

    uri: str
    content_digest: Sha256
    batch_digest: Sha256
    source: str
    is_unpaired: bool = Field(default=False, exclude_if=operator.not_)
    """True if each row has one image, liked or disliked."""
    passed: bool
    """False if a critical rule on the table failed or too many rows were quarantined; no later stage then runs."""
    num_rows: int
    num_accepted: int
    num_quarantined: int
    """Rows of quarantine.parquet: those that broke a rule, and copies."""
    num_duplicates: int | None = None
    """Quarantined rows that only repeat another row of the batch; None in reports from before they were counted."""
    num_withdrawn: int = Field(default=0, exclude_if=operator.not_)
    """Further rows of the shard, which the batch lacks because they are withdrawn."""
    rules: tuple[RuleResult, ...]
    failure: str = ""
    """Reason in one sentence if `passed` is false."""
