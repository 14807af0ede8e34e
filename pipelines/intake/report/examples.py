"""Choose example pairs of a snapshot, and make small pictures of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from alignment.contracts.data import SPLITS, DatasetSnapshot
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.thumbnails import thumbnail
from pipelines.project.sections import ValidationSection
from pipelines.workspace import Workspace

MOST_EXAMPLES = 12
_SIDE = 200
"""Longest side of a picture, in pixels."""
_MOST_CHARACTERS = 300
"""Characters of a prompt that are shown."""
_COLUMNS = ["prompt", "source", "is_tie", "image_chosen", "image_rejected", "generator_chosen", "generator_rejected"]


@dataclass(frozen=True)
class Example:
    """One pair."""

    prompt: str
    source: str
    is_tie: bool
    generators: tuple[str, str]
    pictures: tuple[tuple[str, str], ...]
    """Of the chosen and the rejected image a data URI, or the reason why there is none."""


def example_pairs(snapshot: DatasetSnapshot, workspace: Workspace) -> list[Example]:
    """Return pairs of every split at equal distances, in proportion to the splits' sizes; at most MOST_EXAMPLES."""
    total, first, found = sum(snapshot.num_pairs.values()), 0, []
    wanted = positions(total, MOST_EXAMPLES)
    for split in SPLITS:
        number = snapshot.num_pairs[split]
        here = [position - first for position in wanted if first <= position < first + number]
        if here:
            with scratch_dir(workspace.settings) as scratch:
                path = workspace.store.local_path(f"{snapshot.uri}/{split}.parquet", scratch)
                found += [_example(row, workspace.project.validation) for row in _rows_at(path, here)]
        first += number
    return found


def positions(total: int, most: int) -> list[int]:
    """Return at most `most` numbers below `total`, ascending, in the middle of equal parts."""
    count = min(total, most)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def _rows_at(path: Path, positions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the rows at ascending positions, reading only the row groups that they are in."""
    with pq.ParquetFile(path, buffer_size=1024 * 1024, pre_buffer=False) as file:
        group, first, rows = -1, 0, 0
        for position in positions:
            while position >= first + rows:
                group, first = group + 1, first + rows
                rows = file.metadata.row_group(group).num_rows
            table = file.read_row_group(group, columns=_COLUMNS, use_threads=False)
            yield table.slice(position - first, 1).to_pylist()[0]


def _example(row: dict[str, Any], limits: ValidationSection) -> Example:
    prompt = row["prompt"]
    return Example(
        prompt=prompt if len(prompt) <= _MOST_CHARACTERS else f"{prompt[:_MOST_CHARACTERS]}...",
        source=row["source"],
        is_tie=row["is_tie"],
        generators=(row["generator_chosen"] or "", row["generator_rejected"] or ""),
        pictures=tuple(thumbnail(row[f"image_{role}"], limits, _SIDE) for role in ("chosen", "rejected")),
    )
