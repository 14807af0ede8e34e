"""Agreement by part, reliability of raters and the slope, on tables small enough to count by hand."""

from datetime import UTC, datetime

import numpy as np
import pytest

from alignment.catalogues.rewards import ClipScore
from alignment.contracts.calibration import CalibrationSpec
from alignment.contracts.judges import Judge
from alignment.data.human_labels import Ballot
from alignment.statistics.human_pairs import PairFacts, ScoredPair
from alignment.statistics.judge_calibration import calibrate_judge, rater_reliability

JUDGE = Judge(name="judge", scorer=ClipScore(), weights_digest="1" * 64)
SPEC = CalibrationSpec(judges=(JUDGE,), snapshot_digest="2" * 64)
OLD, NEW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)


def pairs(*margins: float, tie: int | None = None) -> list[ScoredPair]:
    return [ScoredPair(str(i), margin, 0.0, i == tie) for i, margin in enumerate(margins)]


def facts(*sources: str, generators: str = "a | b") -> dict[str, PairFacts]:
    return {str(i): PairFacts(source, generators, NEW if i == 1 else OLD) for i, source in enumerate(sources)}


def test_agreement_is_counted_overall_and_by_part() -> None:
    """Right, wrong, even (half), right, and a human tie that is left out."""
    found = calibrate_judge(JUDGE, pairs(1.0, -1.0, 0.0, 2.0, -5.0, tie=4), facts("x", "x", "x", "y", "y"), SPEC)
    assert (found.overall.num_pairs, found.overall.num_human_ties, found.overall.accuracy) == (4, 1, 2.5 / 4)
    parts = {(part.by, part.name): part.agreement for part in found.slices}
    assert {key: (own.num_pairs, own.accuracy) for key, own in parts.items()} == {
        ("generators", "a | b"): (4, 0.625),
        ("source", "x"): (3, 0.5),
        ("source", "y"): (1, 1.0),
    }
    assert parts["source", "y"].num_human_ties == 1
    assert found.newest_pair_at == NEW


def test_attenuation_line() -> None:
    found = calibrate_judge(JUDGE, pairs(1.0, 1.0, 1.0, -1.0), facts("x", "x", "x", "x"), SPEC)
    assert found.expected_win_rate(0.5) == pytest.approx(0.5)
    assert found.expected_win_rate(0.6) == pytest.approx(0.6 * 0.75 + 0.4 * 0.25)


def test_a_wider_margin_that_is_more_often_right_has_a_positive_slope() -> None:
    generator = np.random.default_rng(3)
    strength = generator.uniform(0.1, 2.0, 400)
    right = generator.random(400) < 1 / (1 + np.exp(-2 * strength))
    margins = np.where(right, strength, -strength).tolist()
    found = calibrate_judge(JUDGE, pairs(*margins), facts(*["x"] * 400), SPEC)
    assert found.margin_slope is not None
    assert found.margin_slope == pytest.approx(2 * np.std(margins), rel=0.3), "slope 2 in units of the spread"
    assert calibrate_judge(JUDGE, pairs(1.0, 2.0), facts("x", "x"), SPEC).margin_slope is None, "too few pairs"
    never_wrong = calibrate_judge(JUDGE, pairs(*strength.tolist()), facts(*["x"] * 400), SPEC)
    assert never_wrong.margin_slope is None


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 calibration scores are not finite"):
        calibrate_judge(JUDGE, pairs(float("nan"), 1.0), facts("x", "x"), SPEC)


def ballot(item: str, first: bool, annotator: str, tie: bool = False) -> Ballot:
    return Ballot(f"{item}{annotator}", item, first, tie, annotator, "x")


def test_reliability_uses_comparisons_labelled_by_two_people_or_more() -> None:
    """Krippendorff: 4 shared comparisons, one of them disputed. Coincidences: 8 values, 5 first, 3 second.

    Observed disagreement 2/8, expected 2 * 5 * 3 / (8 * 7) = 30/56; alpha = 1 - (2/8) / (30/56) = 8/15.
    """
    ballots = [
        *(ballot("p", True, "ann"), ballot("p", True, "bob")),
        *(ballot("q", True, "ann"), ballot("q", True, "bob")),
        *(ballot("r", False, "ann"), ballot("r", False, "cy")),
        *(ballot("s", True, "ann"), ballot("s", False, "bob")),
        ballot("lonely", True, "ann"),
        *(ballot("nameless", True, ""), ballot("nameless", False, "")),
    ]
    found = rater_reliability(ballots)
    assert (found.num_shared_pairs, found.num_labels) == (4, 8)
    assert found.alpha == pytest.approx(8 / 15)


def test_without_shared_comparisons_or_variety_there_is_no_alpha() -> None:
    assert rater_reliability([ballot("p", True, "ann")]).alpha is None
    assert rater_reliability([ballot("p", True, "ann"), ballot("p", True, "bob")]).alpha is None
