"""Agreement of a judge with people."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from alignment.statistics.calibration import _effective_pairs, calibrate

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


def test_a_non_finite_score_is_an_error_except_on_a_human_tie() -> None:
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


def test_pairs_of_one_prompt_count_for_less_the_more_they_agree() -> None:
    """Four prompts of two pairs, accuracy 1/2. Alike within a prompt: spread 4 of 2 * 2 (8 / 4 = 2 expected), so that
    the variance is 4 * 4/3 * 7/8 / 2 = 7/3 times that of 8 independent pairs. Unlike: no spread at all, and at most 8.
    In both cases Student's quantiles for 4 prompts and 8 pairs reduce it further: (2.3646 / 3.1824) ** 2 = 0.5521.
    """
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    alike, unlike = np.array([1.0, 1, 1, 1, 0, 0, 0, 0]), np.array([1.0, 0, 1, 0, 0, 1, 0, 1])
    assert _effective_pairs(alike, groups, confidence=0.95) == pytest.approx(8 / (7 / 3) * 0.5521, rel=1e-3)
    assert _effective_pairs(unlike, groups, confidence=0.95) == pytest.approx(8 * 0.5521, rel=1e-3)
    assert _effective_pairs(alike, np.arange(8), confidence=0.95) == 8
    assert _effective_pairs(alike, np.zeros(8, dtype=np.int64), confidence=0.95) == 1


def test_evidence_of_a_judge_that_is_never_wrong_is_at_most_one_per_prompt() -> None:
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    assert _effective_pairs(np.ones(8), groups, confidence=0.95) == pytest.approx(4 * 0.5521, rel=1e-3)


def test_a_tie_is_removed_from_its_group_as_well() -> None:
    found = calibrate(
        "j",
        score_chosen=[1.0, 1.0, 1.0],
        score_rejected=[0.0, 0.0, 2.0],
        is_human_tie=[False, True, False],
        confidence=0.95,
        groups=["a", "a", "b"],
    )
    alone = calibrate(
        "j", score_chosen=[1.0, 1.0], score_rejected=[0.0, 2.0], is_human_tie=[False] * 2, confidence=0.95
    )
    assert found == alone.model_copy(update={"num_human_ties": 1})


@pytest.mark.parametrize("per_prompt", [1, 6])
def test_a_judge_at_the_floor_gets_a_vote_as_rarely_as_the_level_states(per_prompt: int) -> None:
    """True agreement is the floor; a lower 97.5 % bound may exceed it in 2.5 % of trials, and 1600 trials measure that
    within 1.2 points. The six comparisons of four ranked images of a prompt are right and wrong together.
    """
    rng, trials, prompts = np.random.default_rng(11), 1600, 252 // per_prompt
    groups = [str(prompt) for prompt in range(prompts) for _ in range(per_prompt)]
    votes = 0
    for _ in range(trials):
        skill = rng.beta(1.2, 0.8, prompts) if per_prompt > 1 else np.full(prompts, 0.6)
        right = rng.random((prompts, per_prompt)) < skill[:, None]
        found = calibrate(
            "j",
            score_chosen=np.where(right, 1.0, -1.0).ravel().tolist(),
            score_rejected=[0.0] * len(groups),
            is_human_tie=[False] * len(groups),
            confidence=0.95,
            groups=groups,
        )
        votes += found.accuracy_low > 0.6
    assert votes / trials <= 0.037
