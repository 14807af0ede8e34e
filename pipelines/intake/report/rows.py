"""Read the rows that a data report counts: the accepted rows of a snapshot, a few at a time, without their images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.contracts.data import SPLITS, DatasetSnapshot, Split
from alignment.statistics.normal_text import normal_prompt
from pipelines.contracts.pairs import ValidationReport
from pipelines.intake.ingestion import scratch_dir
from pipelines.intake.pairs import ACCEPTED_FILE, read_batches
from pipelines.intake.snapshot import accepted_folders, sources_without_people
from pipelines.records.heldout_prompts import HeldoutPrompts, heldout_prompts
from pipelines.workspace import Workspace

Row = dict[str, Any]
COPY = "repeats a pair of another shard"
HELD_OUT = "prompt was held out for evaluation after validation"
OTHER_SPLIT = "prompt is in calibration or test, where only labels by people are used"
CONTRADICTED = "same annotator prefers the other image in another shard"
"""Reasons why a snapshot leaves an accepted row out. A copy repeats a pair that the snapshot uses."""

_COLUMNS = [
    *("pair_id", "prompt", "preference", "annotator_id", "source", "licence"),
    *(f"{name}_{side}" for side in (0, 1) for name in ("generator", "sha256", "format", "width", "height")),
]


@dataclass(frozen=True)
class SomeRows:
    """A few accepted rows of one shard."""

    used: list[Row]
    """Rows of the snapshot, with their `split`."""
    left_out: Counter[str]
    """Number of the other rows by reason."""


def read_rows(
    snapshot: DatasetSnapshot, reports: Sequence[ValidationReport], workspace: Workspace
) -> Iterator[SomeRows]:
    """Yield the rows that `build_snapshot` read, in its order, so that the first copy of a pair is the used one."""
    store, heldout = workspace.store, heldout_prompts(workspace.project, workspace.store)
    without_people = sources_without_people(workspace.project)
    splits, seen = _splits(snapshot, workspace), set[bytes]()
    for _, _, folder in accepted_folders(store, reports):
        with scratch_dir(workspace.settings) as scratch:
            for batch in read_batches(store.local_path(f"{folder}/{ACCEPTED_FILE}", scratch), _COLUMNS):
                used, left_out = [], Counter[str]()
                for row in batch.to_pylist():
                    key = _key(row["pair_id"])
                    if key in seen:
                        left_out[COPY] += 1
                    elif key in splits:
                        used.append({**row, "split": splits[key]})
                        seen.add(key)
                    else:
                        left_out[_reason(row, heldout, without_people)] += 1
                yield SomeRows(used, left_out)


def _reason(row: Row, heldout: HeldoutPrompts, without_people: frozenset[str]) -> str:
    if normal_prompt(row["prompt"]) in heldout.normal:
        return HELD_OUT
    return OTHER_SPLIT if row["source"] in without_people else CONTRADICTED


def _splits(snapshot: DatasetSnapshot, workspace: Workspace) -> dict[bytes, Split]:
    found: dict[bytes, Split] = {}
    for split in SPLITS:
        with scratch_dir(workspace.settings) as scratch:
            path = workspace.store.local_path(f"{snapshot.uri}/{split}.parquet", scratch)
            for batch in read_batches(path, ["pair_id"]):
                found.update((_key(pair_id), split) for pair_id in batch.column("pair_id").to_pylist())
    return found


def _key(pair_id: str) -> bytes:
    """Return the first half of a sha256: distinct for any number of pairs, and a quarter of the memory of the text."""
    return bytes.fromhex(pair_id[:32])
