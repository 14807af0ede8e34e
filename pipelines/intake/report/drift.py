"""Compare the shares of two snapshots of a project, category by category. Pure functions.

Snapshots are sets of pairs and no samples of something larger, so a difference needs no test of significance. It needs
a size that matters: a category has drifted if its share moved by at least MINIMUM_MOVE.
"""

from collections.abc import Mapping

from pipelines.contracts.data_report import DataFigures, DriftRow

MINIMUM_MOVE = 0.05
"""Smallest change of a share that is called drift: 5 percentage points. It is larger than the share of any category
that is too rare to be listed.
"""
MOST_ROWS = 60
_ROUNDING = 1e-9
"""Above the rounding of a difference of two quotients, so that a move of exactly 5 points is drift."""


def drift(before: DataFigures, now: DataFigures) -> tuple[DriftRow, ...]:
    """Return the categories whose share changed, the largest change first."""
    rows = [row for name in now.counts for row in _of_property(name, before, now)]
    rows.sort(key=lambda row: (-abs(row.share_now - row.share_before), row.property, row.category))
    return tuple(rows[:MOST_ROWS])


def _of_property(name: str, before: DataFigures, now: DataFigures) -> list[DriftRow]:
    old, new = _totals(before, name), _totals(now, name)
    if not old or not new:
        return []
    rows = [_row(name, category, old, new) for category in {**new, **old}]
    return [row for row in rows if row.share_before != row.share_now]


def _row(name: str, category: str, old: Mapping[str, int], new: Mapping[str, int]) -> DriftRow:
    num_before, num_now = old.get(category, 0), new.get(category, 0)
    share_before, share_now = num_before / sum(old.values()), num_now / sum(new.values())
    return DriftRow(
        property=name,
        category=category,
        num_before=num_before,
        num_now=num_now,
        share_before=share_before,
        share_now=share_now,
        has_drifted=abs(share_now - share_before) >= MINIMUM_MOVE - _ROUNDING,
    )


def _totals(figures: DataFigures, name: str) -> dict[str, int]:
    """Return the number of each category of a property; empty where the property was not counted."""
    totals = {category: sum(splits.values()) for category, splits in figures.counts.get(name, {}).items()}
    return totals if sum(totals.values()) else {}
