"""Read the rows that a data report counts: the accepted rows of a snapshot, a few at a time, without their images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from alignment.contracts.data import SPLITS, DatasetSnapshot, Split
from alignment.statistics.normal_text import normal_prompt
from pipelines.contracts.pairs import ValidationReport
from pipelines.intake.accepted import accepted_folders
from pipelines.intake.pairs import ACCEPTED_FILE, is_unpaired, read_batches
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.snapshot import sources_without_people
from pipelines.intake.unpaired import read_unpaired
from pipelines.intake.withdrawn_rows import is_withdrawn, rows_where
from pipelines.records.heldout_prompts import HeldoutPrompts, heldout_prompts
from pipelines.records.withdrawals import active_withdrawals
from pipelines.workspace import Workspace

Row = dict[str, Any]
COPY = "repeats a pair of another shard"
HELD_OUT = "prompt was held out for evaluation after validation"
OTHER_SPLIT = "prompt is in calibration or test, where only labels by people are used"
WITHDRAWN = "withdrawn after it was accepted"
CONTRADICTED = "same annotator prefers the other image in another shard"
BOTH_WAYS = "same annotator liked and disliked the image in two shards"
"""Reasons why a snapshot leaves an accepted row out. A copy repeats a pair that the snapshot uses."""

_COLUMNS = [
    *("pair_id", "prompt", "preference", "annotator_id", "source", "source_file", "licence"),
    *(f"{name}_{side}" for side in (0, 1) for name in ("generator", "sha256", "format", "width", "height")),
]


@dataclass(frozen=True)
class SomeRows:
    """A few accepted rows of one shard."""

    used: list[Row]
    """Rows of the snapshot, with their `split`; all of them pairs, or all single images."""
    is_unpaired: bool
    left_out: Counter[str]
    """Number of the other rows by reason."""


def read_rows(
    snapshot: DatasetSnapshot, reports: Sequence[ValidationReport], workspace: Workspace
) -> Iterator[SomeRows]:
    """Yield the rows that `build_snapshot` read, in its order, so that the first copy of a pair is the used one."""
    store, heldout = workspace.store, heldout_prompts(workspace.project, workspace.store)
    without_people = sources_without_people(workspace.project)
    pairs, withdrawals = _Pairs(snapshot, workspace), active_withdrawals(store)
    for _, _, folder in accepted_folders(store, reports):
        with scratch_dir(workspace.settings) as scratch:
            path = store.local_path(f"{folder}/{ACCEPTED_FILE}", scratch)
            single = is_unpaired(pq.read_schema(path).names)
            contradicted = BOTH_WAYS if single else CONTRADICTED
            for batch in read_batches(path, _COLUMNS):
                used, left_out = [], Counter[str]()
                gone = is_withdrawn(batch, withdrawals)
                left_out.update({WITHDRAWN: sum(gone)} if any(gone) else {})
                for row in rows_where(batch, gone, False).to_pylist():
                    split = pairs.take(row["pair_id"])
                    if split is None:
                        left_out[_reason(row, heldout, without_people, contradicted=contradicted)] += 1
                    elif split == COPY:
                        left_out[COPY] += 1
                    else:
                        used.append({**row, "split": split})
                yield SomeRows(used, single, left_out)


class _Pairs:
    """The pairs of a snapshot in 10 bytes each: the first 64 bits of pair_id, the split, and if it was met before.

    Two of a million pairs have the same 64 bits with a probability of 3e-8; one of them would count as a copy.
    """

    def __init__(self, snapshot: DatasetSnapshot, workspace: Workspace) -> None:
        keys, codes = [np.empty(0, np.uint64)], [np.empty(0, np.uint8)]
        for pair_ids, splits in _places(snapshot, workspace):
            keys.append(np.array([_key(pair_id) for pair_id in pair_ids], np.uint64))
            codes.append(np.array([SPLITS.index(split) for split in splits], np.uint8))
        order = np.argsort(joined := np.concatenate(keys))
        self._keys, self._codes = joined[order], np.concatenate(codes)[order]
        self._met = np.zeros(len(order), np.bool_)

    def take(self, pair_id: str) -> str | None:
        """Return the split of a pair that is met for the first time, COPY for the next times, None outside of it."""
        key = _key(pair_id)
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        met, self._met[at] = bool(self._met[at]), True
        return COPY if met else SPLITS[self._codes[at]]


def _places(snapshot: DatasetSnapshot, workspace: Workspace) -> Iterator[tuple[list[str], list[Split]]]:
    """Yield the identities and the splits of a few rows of a snapshot at a time."""
    store = workspace.store
    for split in SPLITS:
        with scratch_dir(workspace.settings) as scratch:
            for batch in read_batches(store.local_path(f"{snapshot.uri}/{split}.parquet", scratch), ["pair_id"]):
                yield batch.column("pair_id").to_pylist(), [split] * batch.num_rows
    with scratch_dir(workspace.settings) as scratch:
        for batch in read_unpaired(store, snapshot.uri, ["pair_id", "split"], scratch):
            yield batch.column("pair_id").to_pylist(), batch.column("split").to_pylist()


def _key(pair_id: str) -> np.uint64:
    return np.uint64(int(pair_id[:16], 16))


def _reason(row: Row, heldout: HeldoutPrompts, without_people: frozenset[str], *, contradicted: str) -> str:
    if normal_prompt(row["prompt"]) in heldout.normal:
        return HELD_OUT
    return OTHER_SPLIT if row["source"] in without_people else contradicted
