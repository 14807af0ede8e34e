"""Margins and thresholds in standard deviations of what is compared with them."""

import numpy as np
import pytest

from alignment.statistics.comparison import SeedGrid
from alignment.statistics.score_grids import ScoreGrids
from pipelines.project.gate import DetectorRules, DriftRule, GatePolicy, GuardRule
from pipelines.release.gate.margin_scale import MAXIMUM_MARGIN_SCALE, margin_scales, tie_threshold_scales

CHAMPION = np.array([10.0, 20.0, 30.0, 40.0])
CHANGE = np.array([3.0, -1.0, 1.0, -3.0])
"""Standard deviation sqrt(20 / 3), 2.582."""


def scores_of(**changes: np.ndarray) -> ScoreGrids:
    prompts, seeds = np.arange(4), np.array([0])
    grids = {}
    for name, change in changes.items():
        grids[name, "champion"] = SeedGrid(prompts, seeds, CHAMPION[:, None])
        grids[name, "candidate"] = SeedGrid(prompts, seeds, (CHAMPION + change)[:, None])
    return ScoreGrids(grids)


def test_a_margin_is_scaled_by_the_standard_deviation_of_the_compared_values() -> None:
    """Of a relative margin of 10 % of 25 that is candidate - 0.9 champion: 4, 1, 4, 1 with a spread of sqrt(3)."""
    policy = GatePolicy(
        guards={
            "plain": GuardRule(margin=1.0),
            "relative": GuardRule(relative_margin=0.1),
            "still": GuardRule(margin=0.1),
            "none": GuardRule(margin=0.0),
            "share": GuardRule(threshold=0.5, margin=0.01),
            "unmeasured": GuardRule(margin=1.0),
        },
        detectors=DetectorRules(drift={"sharp": DriftRule(margin=5.164), "spread": DriftRule(margin=0.2, unit="sd")}),
    )
    names = ("plain", "relative", "none", "share", "sharp", "spread")
    found = margin_scales(policy, scores_of(**dict.fromkeys(names, CHANGE), still=np.zeros(4)))
    relative = CHAMPION + CHANGE - 0.9 * CHAMPION
    assert list(relative) == pytest.approx([4.0, 1.0, 4.0, 1.0])
    assert found == pytest.approx(
        {"plain": 0.3873, "relative": 2.5 / 3**0.5, "sharp": 2.0, "spread": 1.0, "still": MAXIMUM_MARGIN_SCALE},
        rel=1e-3,
    )


def test_a_guard_that_may_not_rise_is_compared_with_more_than_the_champion() -> None:
    rule = GuardRule(relative_margin=0.1, better="lower")
    found = margin_scales(GatePolicy(guards={"g": rule}), scores_of(g=CHANGE))
    compared = CHAMPION + CHANGE - 1.1 * CHAMPION
    assert found == pytest.approx({"g": 2.5 / compared.std(ddof=1)})


def test_tie_thresholds_of_judges_that_were_measured() -> None:
    found = tie_threshold_scales({"judge": 0.2582, "other": 1.0}, scores_of(judge=CHANGE))
    assert found == pytest.approx({"judge": 0.1}, rel=1e-3)
