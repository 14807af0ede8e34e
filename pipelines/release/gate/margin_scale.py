"""How widely scorers' differences spread over prompts in an evaluation, as the simulation of a policy wants to know it.

A margin or a tie threshold in a scorer's own units says nothing about how many prompts a verdict needs; in standard
deviations of the paired difference it does.
"""

from collections.abc import Mapping

from alignment.statistics.comparison import Floats
from alignment.statistics.score_grids import ScoreGrids
from pipelines.project.gate import GatePolicy, GuardRule

MOST_SPREADS = 100.0
"""A margin in standard deviations beyond which it makes no difference; also that of a scorer that did not move."""


def margins_in_spreads(policy: GatePolicy, scores: ScoreGrids) -> dict[str, float]:
    """Guards and statistics watched for drift to their margins in standard deviations of what is compared with them.

    Absent are those without a whole grid, with a margin of 0, with absolute limits alone, or of yes-or-no kind, where a
    margin is a share of prompts.
    """
    found = {}
    for name, rule in policy.guards.items():
        if rule.threshold is None and (pair := _means(scores, name)) is not None:
            margin, compared_P = _compared(rule, *pair)
            found[name] = _ratio(margin, compared_P)
    for name, detector in policy.detectors.drift.items():
        if (pair := _means(scores, name)) is not None:
            found[name] = _ratio(detector.margin, pair[0] - pair[1])
    return {name: ratio for name, ratio in sorted(found.items()) if ratio > 0}


def thresholds_in_spreads(thresholds: Mapping[str, float], scores: ScoreGrids) -> dict[str, float]:
    """Tie thresholds of judges in standard deviations of their differences; absent without a whole grid."""
    pairs = {judge: _means(scores, judge) for judge in sorted(thresholds)}
    return {judge: _ratio(thresholds[judge], pair[0] - pair[1]) for judge, pair in pairs.items() if pair is not None}


def _compared(rule: GuardRule, candidate_P: Floats, champion_P: Floats) -> tuple[float, Floats]:
    """A guard's margin, and the values by prompt whose mean is compared with it."""
    if rule.margin is not None or rule.relative_margin is None:
        return rule.margin or 0.0, candidate_P - champion_P
    share = 1 - rule.relative_margin if rule.better == "higher" else 1 + rule.relative_margin
    return rule.relative_margin * float(champion_P.mean()), candidate_P - share * champion_P


def _means(scores: ScoreGrids, scorer: str) -> tuple[Floats, Floats] | None:
    if not all(scores.has(scorer, role) for role in ("candidate", "champion")):
        return None
    candidate_P, champion_P = (scores.grid(scorer, role).prompt_means() for role in ("candidate", "champion"))
    return (candidate_P, champion_P) if len(candidate_P) == len(champion_P) > 1 else None


def _ratio(margin: float, compared_P: Floats) -> float:
    spread = float(compared_P.std(ddof=1))
    return min(MOST_SPREADS, margin / spread) if spread > 0 else MOST_SPREADS
