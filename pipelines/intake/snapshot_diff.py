"""Compare two snapshots of a project pair by pair: added, left, another label, another split."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from alignment.contracts.data import SPLITS, Split
from pipelines.contracts.data_report import ChangedPair, SnapshotDiff, SnapshotRecord, UnpairedDiff
from pipelines.intake.checked_files import fetch_checked
from pipelines.intake.pairs import read_batches
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.unpaired import read_unpaired
from pipelines.workspace import Workspace

Change = Literal["added", "left", "label", "split"]
CHANGES: tuple[Change, ...] = ("added", "left", "label", "split")
TIE = "tie"
_DIGITS = 12
"""Digits of an image's sha256 that stand for it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Place and label of a pair in one snapshot."""

    split: Split
    chosen: str
    """First digits of the sha256 of the chosen image, or `tie`; `liked` or `disliked` of a single image."""
    source: str

    def __str__(self) -> str:
        return f"{self.split}, {self.chosen}"


def diff_snapshots(before: SnapshotRecord, now: SnapshotRecord, workspace: Workspace, *, most: int) -> SnapshotDiff:
    """Return the numbers of each kind of change, and up to `most` example pairs of each, by pair_id.

    Images are read a few at a time. ValueError when a snapshot is no longer in the store.
    """
    old, new = _places(before, workspace), _places(now, workspace)
    changes = dict(_changes(old, new))
    by_source: dict[str, Counter[str]] = {}
    for pair_id, change in changes.items():
        by_source.setdefault((new.get(pair_id) or old[pair_id]).source, Counter())[change] += 1
    totals = Counter(changes.values())
    return SnapshotDiff(
        project=workspace.project.name,
        before_digest=before.snapshot_digest,
        now_digest=now.snapshot_digest,
        num_before=len(old),
        num_now=len(new),
        num_added=totals["added"],
        num_left=totals["left"],
        num_changed_label=totals["label"],
        num_changed_split=totals["split"],
        by_source={name: {change: counts[change] for change in CHANGES} for name, counts in sorted(by_source.items())},
        unpaired=_unpaired_diff(_unpaired_places(before, workspace), _unpaired_places(now, workspace)),
        examples=tuple(_examples(changes, old, new, workspace, records=(before, now), most=most)),
    )


def _changes(old: Mapping[str, _Place], new: Mapping[str, _Place]) -> Iterator[tuple[str, Change]]:
    """Yield each pair that differs with its change; of a pair with another label and split, the label."""
    for pair_id, place in new.items():
        was = old.get(pair_id)
        if was is None:
            yield pair_id, "added"
        elif was.chosen != place.chosen:
            yield pair_id, "label"
        elif was.split != place.split:
            yield pair_id, "split"
    for pair_id in old:
        if pair_id not in new:
            yield pair_id, "left"


def _unpaired_diff(old: Mapping[str, _Place], new: Mapping[str, _Place]) -> UnpairedDiff | None:
    if not old and not new:
        return None
    totals = Counter(change for _, change in _changes(old, new))
    return UnpairedDiff(
        num_before=len(old),
        num_now=len(new),
        num_added=totals["added"],
        num_left=totals["left"],
        num_changed_label=totals["label"],
        num_changed_split=totals["split"],
    )


def _unpaired_places(record: SnapshotRecord, workspace: Workspace) -> dict[str, _Place]:
    columns = ["pair_id", "split", "liked", "source"]
    with scratch_dir(workspace.settings) as scratch:
        batches = read_unpaired(workspace.store, record.snapshot_uri, columns, scratch)
        rows = [row for batch in batches for row in batch.to_pylist()]
    return {
        row["pair_id"]: _Place(row["split"], "liked" if row["liked"] else "disliked", row["source"]) for row in rows
    }


def _places(record: SnapshotRecord, workspace: Workspace) -> dict[str, _Place]:
    rows = _rows(record, workspace, ["pair_id", "is_tie", "source", "image_chosen"])
    return {row["pair_id"]: _Place(split, _label(row), row["source"]) for split, row in rows}


def _label(row: Mapping[str, Any]) -> str:
    return TIE if row["is_tie"] else hashlib.sha256(row["image_chosen"]).hexdigest()[:_DIGITS]


def _rows(record: SnapshotRecord, workspace: Workspace, columns: list[str]) -> Iterator[tuple[Split, dict[str, Any]]]:
    for split in SPLITS:
        with scratch_dir(workspace.settings) as scratch:
            path = fetch_checked(workspace.store, record.snapshot_uri, f"{split}.parquet", scratch)
            for batch in read_batches(path, columns):
                for row in batch.to_pylist():
                    yield split, row


def _examples(
    changes: Mapping[str, Change],
    old: Mapping[str, _Place],
    new: Mapping[str, _Place],
    workspace: Workspace,
    *,
    records: tuple[SnapshotRecord, SnapshotRecord],
    most: int,
) -> Iterator[ChangedPair]:
    chosen: list[tuple[Change, list[str]]] = [
        (kind, heapq.nsmallest(most, (pair_id for pair_id, change in changes.items() if change == kind)))
        for kind in CHANGES
    ]
    wanted = {pair_id for _, ids in chosen for pair_id in ids}
    prompts: dict[str, str] = {}
    for record in records if wanted else ():
        rows = _rows(record, workspace, ["pair_id", "prompt"])
        prompts.update((row["pair_id"], row["prompt"]) for _, row in rows if row["pair_id"] in wanted)
    for change, ids in chosen:
        for pair_id in ids:
            was, place = old.get(pair_id), new.get(pair_id)
            yield ChangedPair(
                change=change,
                pair_id=pair_id,
                source=(place or old[pair_id]).source,
                prompt=prompts[pair_id],
                before=str(was) if was else "",
                now=str(place) if place else "",
            )
