"""Agreement among people and with a judge: hand-computed values, and coverage of the powered interval."""

import numpy as np
import pytest

from alignment.statistics.agreement import (
    _cohen_kappa,
    _confusion,
    _fleiss_kappa,
    attenuated_win_rate,
    disattenuated_win_rate,
    krippendorff_alpha,
    margin_slope,
    prediction_powered_win_rate,
)


def test_alpha_of_perfect_raters_opposed_raters_and_raters_with_gaps() -> None:
    assert krippendorff_alpha([[1, 0, 1, 0], [1, 0, 1, 0]]) == pytest.approx(1.0)
    # Observed disagreement 1; expected 2 * 4 * 4 / (8 * 7) = 4 / 7.
    assert krippendorff_alpha([[1, 0, 1, 0], [0, 1, 0, 1]]) == pytest.approx(1 - 7 / 4)
    assert krippendorff_alpha([[1, 0, None, 1], [1, 0, 1, None]]) == pytest.approx(1.0)


def test_kappas_by_hand() -> None:
    """Three of four agree, chance is one half: (3/4 - 1/2) / (1/2)."""
    assert _confusion([1, 1, 0, 0], [1, 0, 0, 0]).tolist() == [[2, 0], [1, 1]]
    assert _cohen_kappa([1, 1, 0, 0], [1, 0, 0, 0]) == pytest.approx(0.5)
    assert _fleiss_kappa([[1, 0, 1], [1, 0, 1], [1, 0, 1]]) == pytest.approx(1.0)


def test_attenuation_and_its_inverse() -> None:
    assert attenuated_win_rate(0.6, 0.705) == pytest.approx(0.541)
    assert attenuated_win_rate(0.55, 0.705) == pytest.approx(0.5205)
    assert disattenuated_win_rate(0.541, 0.705) == pytest.approx(0.6)
    assert disattenuated_win_rate(0.9, 0.6) == 1.0
    with pytest.raises(ValueError, match="must exceed"):
        disattenuated_win_rate(0.6, 0.5)


def test_the_slope_of_a_logistic_judge_is_found() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1, 4000)
    human = (rng.uniform(size=4000) < 1 / (1 + np.exp(-(0.3 + 1.5 * margins)))).astype(int)
    intercept, slope = margin_slope(human.tolist(), margins.tolist())
    assert (intercept, slope) == (pytest.approx(0.3, abs=0.1), pytest.approx(1.5, abs=0.15))


def test_a_biased_judge_does_not_mislead_the_powered_interval() -> None:
    """People prefer the candidate in 50 % of prompts, the judge in 70 %: the interval stays around the human rate."""
    rng = np.random.default_rng(1)
    human = rng.integers(0, 2, 1500)
    judge = np.where(rng.uniform(size=1500) < 0.4, 1, human)
    found = prediction_powered_win_rate(
        human[:500].tolist(), judge[:500].tolist(), judge[500:].tolist(), confidence=0.95
    )
    assert judge.mean() > 0.65
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.09
    with pytest.raises(ValueError, match="as many"):
        prediction_powered_win_rate([1, 0], [1], [1, 0], confidence=0.95)
