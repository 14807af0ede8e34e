"""Number of prompts needed, against published tables and simulation."""

from statistics import NormalDist

import numpy as np
import pytest

from alignment.statistics.comparison import superiority_p_value
from alignment.statistics.power import (
    WILCOXON_EFFICIENCY,
    k_of_n_power,
    noninferiority_power,
    prompts_needed,
    shift_power,
    win_rate_found,
    win_rate_of_effect,
    win_rate_power,
)


@pytest.mark.parametrize(("effect", "prompts"), [(0.05, 4205), (0.10, 1053), (0.15, 469), (0.20, 265), (0.30, 119)])
def test_prompts_for_ninety_percent_power_of_a_t_test(effect: float, prompts: int) -> None:
    assert prompts_needed(lambda n: shift_power(effect, n, level=0.025), 0.9) == pytest.approx(prompts, abs=2)


def test_wilcoxon_finds_a_shift_with_the_stated_power() -> None:
    rng = np.random.default_rng(0)
    found = np.mean([superiority_p_value(rng.normal(0.2, 1, 200)) <= 0.025 for _ in range(400)])
    assert found == pytest.approx(shift_power(0.2, 200, level=0.025, efficiency=WILCOXON_EFFICIENCY), abs=0.05)


def test_win_rate_power_by_hand() -> None:
    """(0.6 - 0.5) sqrt(200) = 1.414; less 1.96 * 0.5; over sqrt(0.24)."""
    assert win_rate_power(0.6, 200, minimum=0.5, level=0.025) == pytest.approx(0.8119, abs=1e-3)
    assert win_rate_power(0.5, 200, minimum=0.5, level=0.025) == pytest.approx(0.025, abs=1e-6)
    assert win_rate_power(0.6, 200, minimum=0.5, level=0.025, tie_share=0.5) < 0.6
    assert win_rate_of_effect(0.2533) == pytest.approx(0.6, abs=1e-4)


def test_the_detectable_win_rate_is_found_by_slices_with_the_stated_power() -> None:
    """136 prompts, the first of 36 tests: normal differences of that rate, through the same test as the slices use."""
    level = 0.025 / 36
    found = win_rate_found(136, limit=0.45, level=level, power=0.9)
    assert found is not None
    rng, effect = np.random.default_rng(3), NormalDist().inv_cdf(found)
    drawn = [rng.normal(effect, 1, 136) for _ in range(1000)]
    seen = [superiority_p_value(-own) <= level and (own > 0).mean() < 0.45 for own in drawn]
    assert np.mean(seen) == pytest.approx(0.9, abs=0.025)
    assert win_rate_found(40, limit=0.35, level=level, power=0.9) < found, "fewer prompts show only a larger loss"
    assert win_rate_found(5, limit=0.45, level=level, power=0.9) is None
    assert win_rate_found(136, limit=0.45, level=level, power=0.9, tie_share=1.0) is None


def test_k_of_n_is_the_lower_of_independent_and_identical_judges() -> None:
    assert k_of_n_power(0.9, 2, 3) == pytest.approx(0.9)
    assert k_of_n_power(0.9, 2, 2) == pytest.approx(0.81)
    assert k_of_n_power(0.1, 2, 3) == pytest.approx(0.028)


def test_guards_without_spread_always_hold_and_wider_margins_raise_power() -> None:
    assert noninferiority_power(0.1, 0.0, 10, level=0.025) == 1.0
    assert noninferiority_power(0.15, 1.0, 469, level=0.025) == pytest.approx(0.9, abs=0.002)


def test_no_number_of_prompts_detects_a_zero_effect() -> None:
    assert prompts_needed(lambda n: shift_power(0.0, n, level=0.025), 0.9) is None
