"""Agreement of a judge with people."""

import json
import math
from pathlib import Path

import pytest

from alignment.evaluation.calibration import calibrate

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "stats_judge_calibration.json").read_text())


def test_recorded_agreement_is_reproduced() -> None:
    margins = [m if label else -m for label, m in zip(GOLDEN["human_label"], GOLDEN["proxy_margin"], strict=True)]
    pairs = len(margins)
    found = calibrate(
        "j", score_chosen=margins, score_rejected=[0.0] * pairs, is_human_tie=[False] * pairs, confidence=0.95
    )
    assert found.num_pairs == 260
    assert found.accuracy == pytest.approx(GOLDEN["expected"]["agreement"], abs=1e-9)
    bounds = (found.accuracy_low, found.accuracy_high)
    assert bounds == pytest.approx(GOLDEN["expected"]["agreement_wilson95"], abs=1e-9)


def test_human_ties_are_left_out_and_judge_ties_count_half() -> None:
    found = calibrate(
        "j",
        score_chosen=[2.0, 1.0, 0.0, 9.0],
        score_rejected=[1.0, 1.0, 1.0, 0.0],
        is_human_tie=[False, False, False, True],
        confidence=0.95,
    )
    assert (found.num_pairs, found.num_human_ties) == (3, 1)
    assert found.accuracy == pytest.approx(0.5)


def test_a_non_finite_score_of_a_human_tie_is_no_error_but_any_other_is() -> None:
    scores = {"score_chosen": [1.0, math.nan], "score_rejected": [0.0, 0.0]}
    assert calibrate("j", **scores, is_human_tie=[False, True], confidence=0.95).accuracy == 1.0
    with pytest.raises(ValueError, match="1 of 2 calibration scores"):
        calibrate("j", **scores, is_human_tie=[False, False], confidence=0.95)


def test_a_judge_without_pairs_is_unknown() -> None:
    found = calibrate("j", score_chosen=[], score_rejected=[], is_human_tie=[], confidence=0.95)
    assert (found.num_pairs, found.accuracy, found.accuracy_low, found.accuracy_high) == (0, 0.5, 0.0, 1.0)


def test_ragged_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="2 chosen scores, 1 rejected"):
        calibrate("j", score_chosen=[1.0, 2.0], score_rejected=[1.0], is_human_tie=[False], confidence=0.95)
