"""Show the quarantined rows of a batch in its Data Docs: a small picture of each image, and the broken rules.

The table has no prompt and no person, as the rest of the Data Docs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.intake.pairs import is_unpaired, read_batches
from pipelines.intake.thumbnails import thumbnail
from pipelines.pages.page import page_environment
from pipelines.project.sections import ValidationSection

MOST_ROWS = 60
"""Rows in the table; the others are only counted."""
_SIDE = 96
"""Longest side of a picture, in pixels."""
_NO_SECOND = ("", "unpaired")
_COLUMNS = ["source_row", "pair_id", "reasons", "image_0", "image_1"]


@dataclass(frozen=True)
class _Row:
    number: int
    """Row in the source file."""
    pair_id: str
    reasons: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...]
    """Of each image a data URI, or the reason why there is none."""


def quarantine_section(path: Path, num_rows: int, limits: ValidationSection) -> str:
    """Return the HTML table of a quarantine.parquet with `num_rows` rows; empty without rows."""
    if not num_rows:
        return ""
    sides = (0,) if is_unpaired(pq.read_schema(path).names) else (0, 1)
    rows = [_row(row, limits, sides) for row in _first_rows(path)]
    template = page_environment(Path(__file__).parent).get_template("quarantine.html.j2")
    return template.render(rows=rows, num_rows=num_rows)


def _first_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    left = MOST_ROWS
    for batch in read_batches(path, _COLUMNS):
        yield from batch.slice(0, left).to_pylist()
        left -= batch.num_rows
        if left <= 0:
            return


def _row(row: Mapping[str, Any], limits: ValidationSection, sides: Sequence[int]) -> _Row:
    pictures = [thumbnail(row[f"image_{side}"], limits, _SIDE) if side in sides else _NO_SECOND for side in (0, 1)]
    return _Row(row["source_row"], row["pair_id"], tuple(row["reasons"]), tuple(pictures))
