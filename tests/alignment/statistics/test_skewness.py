"""The corrected interval: a hand-computed one, its symmetries, and its error rate compared with a t interval."""

import math

import numpy as np
import pytest

from alignment.statistics.comparison import Floats, mean_interval
from alignment.statistics.skewness import skewed_mean_interval


def test_a_lower_bound_by_hand() -> None:
    """Values 1, 1, 1, 1, -4: mean 0, skewness -1.5, s = sqrt(5), t(0.975, 4) = 2.776445."""
    k = -1.5 / math.sqrt(5)
    low, high = skewed_mean_interval(np.array([1.0, 1.0, 1.0, 1.0, -4.0]), confidence=0.95)
    lifted = 1 + k * (2.776445 - k / 6)
    assert lifted < 0, "the cube root of a negative number is part of the example"
    assert low == pytest.approx(-3 / k * (-(abs(lifted) ** (1 / 3)) - 1), rel=1e-6)
    assert high == pytest.approx(-3 / k * ((1 + k * (-2.776445 - k / 6)) ** (1 / 3) - 1), rel=1e-6)


def test_without_skewness_it_is_the_t_interval() -> None:
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) + 0.3
    assert skewed_mean_interval(values, confidence=0.9) == pytest.approx(mean_interval(values, confidence=0.9))


def test_mirrored_values_have_the_mirrored_interval_and_units_do_not_matter() -> None:
    values = np.random.default_rng(0).exponential(size=300)
    low, high = skewed_mean_interval(values, confidence=0.95)
    assert skewed_mean_interval(-values, confidence=0.95) == pytest.approx((-high, -low))
    assert skewed_mean_interval(100 * values + 7, confidence=0.95) == pytest.approx((100 * low + 7, 100 * high + 7))


def test_equal_values_are_a_point_and_one_prompt_is_refused() -> None:
    assert skewed_mean_interval(np.full(10, 0.25), confidence=0.95) == (0.25, 0.25)
    assert skewed_mean_interval(np.zeros(10), confidence=0.95) == (0.0, 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        skewed_mean_interval(np.zeros(1), confidence=0.95)


def with_rare_losses(rng: np.random.Generator, *, prompts: int, share: float, loss: float) -> Floats:
    """The true mean is 0: a share of the prompts loses, and the others gain as much in total."""
    losing_P = rng.random(prompts) < share
    return np.asarray(rng.standard_normal(prompts) + np.where(losing_P, -loss, share * loss / (1 - share)))


@pytest.mark.parametrize(("prompts", "share", "loss"), [(1632, 0.01, 20.0), (200, 0.05, 10.0)])
def test_rare_large_losses_pass_as_a_gain_no_more_often_than_the_level_states(
    prompts: int, share: float, loss: float
) -> None:
    """Nominal 1.25 % of 3000 samples, plus three standard errors; the t interval errs beyond that."""
    rng = np.random.default_rng(1)
    corrected = plain = 0
    for _ in range(3000):
        values_P = with_rare_losses(rng, prompts=prompts, share=share, loss=loss)
        corrected += skewed_mean_interval(values_P, confidence=0.975)[0] > 0
        plain += mean_interval(values_P, confidence=0.975)[0] > 0
    limit = 3000 * 0.0125 + 3 * math.sqrt(3000 * 0.0125 * 0.9875)
    assert corrected <= limit < plain
