"""Value objects of intake: shard, raw batch, validation report."""

from typing import Literal

from alignment.contracts.values import Record, Sha256, ValueObject


class SourceShard(ValueObject):
    """One file of a preference source, found but not yet read."""

    source: str
    uri: str
    num_bytes: int
    fingerprint: str
    """What tells one version of the file from another: a checksum or ETag, else size and modification time."""


class RawBatch(ValueObject):
    """Pairs of one shard as they came, in our columns, with facts. The folder holds pairs.parquet."""

    uri: str
    content_digest: Sha256
    source: str
    source_file: str
    num_rows: int


class RuleResult(Record):
    """What one rule saw in a batch."""

    rule: str
    severity: Literal["critical", "warning", "info"]
    checked: int
    failed: int
    example_rows: tuple[int, ...] = ()
    """Up to five source rows that broke the rule; never their contents."""


class ValidationReport(ValueObject):
    """Every rule's result, and where the accepted and the quarantined rows are.

    The folder holds accepted.parquet, quarantine.parquet (source_file, source_row, pair_id, reasons and the row) and
    data_docs/ (without prompts).
    """

    uri: str
    content_digest: Sha256
    batch_digest: Sha256
    source: str
    passed: bool
    """False when a table-level critical rule failed or too much was quarantined: then nothing downstream moves."""
    num_rows: int
    num_accepted: int
    num_quarantined: int
    rules: tuple[RuleResult, ...]
    failure: str = ""
    """One sentence when `passed` is false."""
