"""Compute win rates within each category of prompts, from the score table."""

from collections.abc import Sequence
from dataclasses import dataclass

from alignment.contracts.evaluation import Comparison, EvalReport
from alignment.statistics.comparison import compare_differences
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import GateDecision
from pipelines.release.pages.judges import find_check
from pipelines.release.pages.wording import bounds, percent


@dataclass(frozen=True)
class _SliceCell:
    """One scorer in one slice, candidate against the champion."""

    counts: str
    """Wins, ties, losses."""
    win_rate: str
    interval: str
    low: float
    rate: float
    high: float
    colour: str
    """`good` or `bad` if the interval lies on one side of one half, else empty."""


@dataclass(frozen=True)
class SliceRow:
    """One category of prompts."""

    name: str
    prompts: int
    cells: tuple[_SliceCell, ...]
    """In the order of `scorers`."""
    mark: str
    """The gate's result on the slice; empty when the gate did not test it."""
    mark_colour: str


def slice_rows(
    report: EvalReport, decision: GateDecision, scores: ScoreGrids, *, scorers: Sequence[str]
) -> list[SliceRow]:
    """Return every slice with at least two prompts; none without categories or with an incomplete grid.

    Each interval has the evaluation's confidence on its own: among many slices some miss by chance. Only the gate's
    test is corrected for that.
    """
    slices = scores.slices()
    if not slices or not all(scores.has(scorer, role) for scorer in scorers for role in ("candidate", "champion")):
        return []
    differences = {scorer: scores.differences(scorer) for scorer in scorers}
    rows = []
    for name, mask in slices.items():
        if any(len(own) != len(mask) for own in differences.values()) or mask.sum() < 2:
            continue
        compared = [
            compare_differences(
                own[mask],
                scorer=scorer,
                against="champion",
                tie_threshold=report.spec.tie_thresholds.get(scorer, 0.0),
                confidence=report.spec.confidence,
            )
            for scorer, own in differences.items()
        ]
        rows.append(_row(name, int(mask.sum()), compared, decision))
    return rows


def _row(name: str, prompts: int, compared: Sequence[Comparison], decision: GateDecision) -> SliceRow:
    check = find_check(decision, "slice", name)
    mark = "" if check is None else check.note or ("no harm shown" if check.passed else "got worse")
    colour = "plain" if check is None or check.note else "yes" if check.passed else "no"
    return SliceRow(name or "(none)", prompts, tuple(_cell(c) for c in compared), mark, colour)


def _cell(own: Comparison) -> _SliceCell:
    return _SliceCell(
        counts=f"{own.wins} / {own.ties} / {own.losses}",
        win_rate=percent(own.win_rate),
        interval=bounds(own.win_rate_low, own.win_rate_high),
        low=own.win_rate_low,
        rate=own.win_rate,
        high=own.win_rate_high,
        colour="good" if own.win_rate_low > 0.5 else "bad" if own.win_rate_high < 0.5 else "",
    )
