"""Value objects of data reports: figures of a snapshot, its drift, the record of it, and what differs between two."""

import operator
from typing import Literal

from pydantic import AwareDatetime, Field

from alignment.contracts.data import Split
from alignment.contracts.values import Record, Sha256, ValueObject
from pipelines.contracts.pairs import QuarantinedShard


def _is_none(value: object) -> bool:
    return value is None


class AnnotatorFigures(Record):
    """The labels of one person."""

    annotator_id: str
    """Keyed hash."""
    num_pairs: int
    num_ties: int
    first_share: float | None
    """Share of the preferences for the first image; None without a preference."""
    num_compared: int
    """Number of labels that other people gave to the same comparisons."""
    agreement: float | None
    """Share of those labels that are the same; None where nobody else labelled these comparisons."""


class AgreementFigures(Record):
    """Agreement of people who labelled the same comparison: the same two images and prompt, in either order."""

    num_comparisons: int
    """Comparisons with labels by at least two people."""
    num_labels: int
    agreement: float | None
    """Probability that two people who labelled the same comparison gave the same label; a tie is a label."""
    by_chance: float | None
    """The same probability for labels drawn independently, with the shares that they have here (Fleiss 1971)."""


class DataFigures(Record):
    """Counts over the pairs of a snapshot."""

    num_pairs: int
    num_unpaired: int = Field(default=0, exclude_if=operator.not_)
    """Likes and dislikes of single images, which only the property `unpaired` counts."""
    counts: dict[str, dict[str, dict[Split, int]]]
    """Pairs, or images, by property, category and split: the most frequent categories of each property, then the rest
    as one."""
    num_annotators: int
    num_unnamed: int
    """Pairs without an annotator."""
    annotators: tuple[AnnotatorFigures, ...]
    """The people with the most pairs."""
    agreement: AgreementFigures


class SetAside(Record):
    """Outcome of every input row of the snapshot's sources; the numbers of rows add up to `num_rows`."""

    num_rows: int
    num_in_snapshot: int
    num_quarantined: int
    """Rows that broke a rule, without mere copies."""
    num_duplicates: int
    """Rows that only repeat another row of their shard."""
    num_in_failed_shards: int
    """Other rows of shards that failed as a whole."""
    left_out: dict[str, int]
    """Accepted rows that the snapshot does not use, by reason."""
    reasons: dict[str, int]
    """Quarantined rows and copies by broken rule, most frequent first; a row may break several rules."""
    shards: tuple[QuarantinedShard, ...]
    """Shards and replays with rows set aside: the failed ones, then those with the most rows."""
    num_other_shards: int
    """Further shards with rows set aside, which are not listed."""


class DriftRow(Record):
    """Number and share of one category before and now."""

    property: str
    category: str
    num_before: int
    num_now: int
    share_before: float
    share_now: float
    has_drifted: bool


class DataReport(ValueObject):
    """Figures of a snapshot, the rows that were set aside, and the drift since the project's previous snapshot."""

    project: str
    snapshot_uri: str
    snapshot_digest: Sha256
    previous_digest: Sha256 | None
    """Snapshot that the drift is measured from; None for the first of the project."""
    figures: DataFigures
    set_aside: SetAside
    drift: tuple[DriftRow, ...]
    """Categories whose share changed at all, by the size of the change."""


class SnapshotRecord(ValueObject):
    """One snapshot in the series of a project."""

    at: AwareDatetime
    snapshot_uri: str
    snapshot_digest: Sha256
    num_pairs: int
    report_uri: str
    """HTML page of its data report."""
    figures_uri: str
    """The same figures as JSON, a DataReport."""


class ChangedPair(Record):
    """One pair that differs between two snapshots."""

    change: Literal["added", "left", "label", "split"]
    pair_id: str
    source: str
    prompt: str
    before: str
    """Split, and the first digits of the sha256 of the chosen image or `tie`; empty where the pair is not there."""
    now: str


class UnpairedDiff(Record):
    """Differences between the single images of two snapshots."""

    num_before: int
    num_now: int
    num_added: int
    num_left: int
    num_changed_label: int
    """Rows in both that are liked in one and disliked in the other."""
    num_changed_split: int


class SnapshotDiff(Record):
    """Differences between two snapshots. A pair is the same if its two images, prompt and annotator are."""

    project: str
    before_digest: Sha256
    now_digest: Sha256
    num_before: int
    num_now: int
    num_added: int
    num_left: int
    num_changed_label: int
    """Pairs in both, whose chosen image differs or which became or stopped being a tie."""
    num_changed_split: int
    by_source: dict[str, dict[str, int]]
    """Numbers of the four kinds of change by source."""
    unpaired: UnpairedDiff | None = Field(default=None, exclude_if=_is_none)
    """The same numbers for likes and dislikes of single images; None where neither snapshot has any."""
    examples: tuple[ChangedPair, ...]
    """Some pairs of each kind of change, by pair_id."""
