"""Value objects of withdrawal: what may no longer be used, the record of it, and what a purge deletes."""

import operator
from typing import Literal

from pydantic import AwareDatetime, Field

from alignment.contracts.values import Record, ValueObject


class Withdrawal(Record):
    """Pairs that may no longer be used: all those of an annotator, a pair, an image or a source."""

    kind: Literal["annotator", "pair", "image", "source"]
    value: str
    """Keyed hash of the annotator, pair_id, sha256 of the encoded image, or name of the source."""
    shard: str = ""
    """With a source: its only shard that is withdrawn, by its path in the source; empty for all."""

    def __str__(self) -> str:
        return f"{self.kind} {self.value}{':' if self.shard else ''}{self.shard}"


class WithdrawalRecord(ValueObject):
    """One entry of the store's series of withdrawals."""

    number: int
    at: AwareDatetime
    by: str
    reason: str
    withdrawal: Withdrawal
    is_revoked: bool = Field(default=False, exclude_if=operator.not_)
    """True for the entry that revokes an earlier withdrawal."""


class WithheldBatch(Record):
    """A batch without its withdrawn rows, which stands for the complete one as long as these withdrawals hold."""

    uri: str
    """Folder of the batch."""
    withdrawals: tuple[Withdrawal, ...]
    """Withdrawals that rows were left out for."""


class PurgeItem(Record):
    """A folder of the store that holds withdrawn pairs."""

    kind: str
    """Kind of data: raw batch, validated batch, snapshot, features, reference errors or data report."""
    uri: str
    num_pairs: int
    """Withdrawn pairs in it; for data made of a snapshot, those of the snapshot."""
    num_bytes: int
    """Size of its files."""


class PurgePlan(Record):
    """The folders that a purge deletes, in this order."""

    items: tuple[PurgeItem, ...]
    pair_ids: dict[str, tuple[str, ...]]
    """Withdrawn pairs by content digest of the snapshot that held them, kept so that `lineage` finds its models."""
    other_projects: tuple[str, ...] = ()
    """Further projects of the store that use one of the batches."""


class PurgeRecord(ValueObject):
    """One entry of the store's series of purges."""

    number: int
    at: AwareDatetime
    by: str
    plan: PurgePlan
    finishes: int | None = None
    """Number of the entry whose deletion is finished; None in the entry that is written before a deletion."""


class TrainedModel(Record):
    """A registered version that was trained on a pair."""

    version: int
    aliases: tuple[str, ...]
    snapshot_digest: str
    splits: tuple[str, ...]
    """Splits of the snapshot that hold the pair: train, calibration, test, or `unpaired`, from which no objective
    learns; empty where the snapshot was purged."""


class Lineage(Record):
    """The use of a pair, or of all pairs of a snapshot."""

    project: str
    pair_id: str = ""
    snapshots: tuple[str, ...]
    """Content digests of the snapshots that hold or held it."""
    models: tuple[TrainedModel, ...]
    """Registered versions that were trained on one of them."""
    withdrawals: tuple[str, ...] = ()
    """Withdrawals that hold for the pair now."""
