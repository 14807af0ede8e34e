"""Compare the shares of two snapshots of a project, category by category. Pure functions.

Snapshots are sets of pairs and no samples of something larger, so a difference needs no test of significance. It needs
a size that matters: a category has drifted if its share moved by at least MINIMUM_MOVE.
"""

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
    old, new = _shares(before, name), _shares(now, name)
    if not old or not new:
        return []
    found = []
    for category in {**new, **old}:
        was, share = old.get(category, 0.0), new.get(category, 0.0)
        if was != share:
            drifted = abs(share - was) >= MINIMUM_MOVE - _ROUNDING
            row = DriftRow(property=name, category=category, share_before=was, share_now=share, has_drifted=drifted)
            found.append(row)
    return found


def _shares(figures: DataFigures, name: str) -> dict[str, float]:
    """Return the share of each category of a property; empty where the property was not counted."""
    totals = {category: sum(splits.values()) for category, splits in figures.counts.get(name, {}).items()}
    whole = sum(totals.values())
    return {category: number / whole for category, number in totals.items()} if whole else {}
