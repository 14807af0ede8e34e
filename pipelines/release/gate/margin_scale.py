"""Express margins and tie thresholds in standard deviations, for the simulation of a policy.

The number of prompts that a verdict needs does not follow from a margin in a scorer's own units. It follows from the
margin in standard deviations of the paired difference over prompts.
"""

from collections.abc import Mapping

from alignment.statistics.comparison import Floats
from alignment.statistics.score_grids import ScoreGrids
from pipelines.project.gate import GatePolicy, GuardRule

MAXIMUM_MARGIN_SCALE = 100.0
"""The largest margin, in standard deviations; a larger one changes nothing. Also used for a scorer without variance."""


def margin_scales(policy: GatePolicy, scores: ScoreGrids) -> dict[str, float]:
    """Map each guard and drift statistic to its margin, in standard deviations of the values compared with it.

    Left out are guards without a complete grid, with a margin of 0, with only absolute limits, or with a `threshold`,
    where the margin is a share of prompts.
    """
    found = {}
    for name, rule in policy.guards.items():
        if rule.threshold is None and (pair := _means(scores, name)) is not None:
            margin, compared_P = _compared(rule, *pair)
            found[name] = _ratio(margin, compared_P)
    for name, detector in policy.detectors.drift.items():
        if (pair := _means(scores, name)) is not None:
            found[name] = _ratio(detector.absolute(float(pair[1].std(ddof=1))), pair[0] - pair[1])
    return {name: ratio for name, ratio in sorted(found.items()) if ratio > 0}


def tie_threshold_scales(thresholds: Mapping[str, float], scores: ScoreGrids) -> dict[str, float]:
    """Map each judge to its tie threshold, in standard deviations of its differences; left out without a complete
    grid."""
    pairs = {judge: _means(scores, judge) for judge in sorted(thresholds)}
    return {judge: _ratio(thresholds[judge], pair[0] - pair[1]) for judge, pair in pairs.items() if pair is not None}


def _compared(rule: GuardRule, candidate_P: Floats, champion_P: Floats) -> tuple[float, Floats]:
    """Return a guard's margin, and the values per prompt whose mean is compared with it."""
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
    return min(MAXIMUM_MARGIN_SCALE, margin / spread) if spread > 0 else MAXIMUM_MARGIN_SCALE
