"""The accepted rows that a snapshot may use: the first of each comparison, unless its annotator contradicts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignment.statistics.normal_text import normal_prompt
from pipelines.intake.comparisons import comparison_key
from pipelines.intake.pairs import read_batches
from pipelines.intake.soft_labels import side

_COLUMNS = ["prompt", "annotator_id", "preference", "sha256_0", "sha256_1"]
_FIRST, _SECOND = 1, 2
"""Bits of the sides that rows of a comparison prefer; a tie has none."""


@dataclass(frozen=True)
class RowUses:
    """Findings about each row, in the order of the files and of their rows, in a byte each."""

    is_first: np.ndarray
    """True for the first row of a comparison; the others are copies of it."""
    is_contradicted: np.ndarray
    """True where one row of the comparison decides one way and another the other."""


def row_uses(paths: Sequence[Path]) -> RowUses:
    """Compare the rows of all files; a row needs 17 bytes meanwhile.

    Image order is that of the digests, so that a row and its mirror image are one comparison. Rows of one image are
    compared by this image.
    """
    keys, sides = [np.empty(0, "V16")], [np.empty(0, np.uint8)]
    for path in paths:
        for batch in read_batches(path, _COLUMNS):
            rows = batch.to_pylist()
            found = b"".join(
                comparison_key(
                    row["sha256_0"],
                    row["sha256_1"],
                    normal=normal_prompt(row["prompt"]),
                    annotator_id=row["annotator_id"] or "",
                )
                for row in rows
            )
            keys.append(np.frombuffer(found, "V16"))
            sides.append(
                np.array([_side(row["preference"], row["sha256_0"] <= (row["sha256_1"] or "")) for row in rows], "u1")
            )
    return _compared(np.concatenate(keys), np.concatenate(sides))


def _side(preference: float, in_order: bool) -> int:
    favoured = side(preference)
    if favoured == 0.5:
        return 0
    return _FIRST if (favoured == 1) == in_order else _SECOND


def _compared(keys: np.ndarray, sides: np.ndarray) -> RowUses:
    if not len(keys):
        return RowUses(np.empty(0, bool), np.empty(0, bool))
    high, low = keys.view("u8").reshape(-1, 2).T
    order = np.lexsort((low, high))  # stable: of equal keys the first row stays first
    starts = np.flatnonzero(np.r_[True, (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)])
    both = np.bitwise_or.reduceat(sides[order], starts) == _FIRST | _SECOND
    is_first, is_contradicted = np.zeros(len(keys), bool), np.empty(len(keys), bool)
    is_first[order[starts]] = True
    is_contradicted[order] = np.repeat(both, np.diff(np.r_[starts, len(keys)]))
    return RowUses(is_first, is_contradicted)
