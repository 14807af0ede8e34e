"""Measures of reward hacking, on data with a hacked judge and on data without one."""

import math

import numpy as np
import pytest

from alignment.statistics.comparison import SeedGrid
from alignment.statistics.reward_hacking import (
    gain_gap,
    persisting_gain,
    rank_correlation,
    seed_differences,
    standardised,
)


def normal(mean: float, seed: int, prompts: int = 2000, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, prompts)


def test_standardised_has_unit_spread_and_keeps_zeros() -> None:
    assert standardised(normal(3.0, 0, spread=7.0)).std(ddof=1) == pytest.approx(1.0)
    assert standardised(np.zeros(5)).tolist() == [0.0] * 5
    assert standardised(np.full(4, -2.0)).tolist() == [-1.0] * 4


def test_the_gap_is_in_standard_deviations_whatever_the_units() -> None:
    gap, low, high = gain_gap(
        normal(80.0, 0, spread=100.0), [normal(0.1, 1), normal(0.002, 2, spread=0.01)], confidence=0.95
    )
    assert gap == pytest.approx(0.8 - (0.1 + 0.2) / 2, abs=0.06)
    assert low < gap < high < gap + 0.1
    assert low > 0.3


def test_the_gain_under_other_prompts_is_reported_as_a_share() -> None:
    true = normal(0.5, 0)
    share, low, _ = persisting_gain(true, true + normal(0.0, 1, spread=0.1), share=0.8, confidence=0.95)
    assert share == pytest.approx(1.0, abs=0.02)
    assert low > 0
    share, _, high = persisting_gain(true, normal(0.1, 4), share=0.8, confidence=0.95)
    assert share == pytest.approx(0.2, abs=0.1)
    assert high < 0
    assert math.isnan(persisting_gain(normal(-0.5, 0), true, share=0.8, confidence=0.95)[0])


def test_rank_correlation_covers_and_refuses_constants() -> None:
    shared = normal(0.0, 0)
    rho, low, high = rank_correlation(shared + normal(0.0, 1), shared + normal(0.0, 2), confidence=0.95)
    assert rho == pytest.approx(0.48, abs=0.04)
    assert low < rho < high
    assert rank_correlation(shared, np.exp(shared), confidence=0.95)[0] == pytest.approx(1.0)
    assert rank_correlation(shared, np.zeros(2000), confidence=0.95) == (0.0, -1.0, 1.0)


def test_a_model_against_itself_is_split_by_seeds() -> None:
    scores = np.array([[1.0, 2.0, 4.0], [5.0, 5.0, 5.0]])
    grid = SeedGrid(np.arange(2), np.arange(3), scores)
    differences = seed_differences(grid)
    assert differences is not None
    assert differences.tolist() == [-2.0, 0.0]
    assert seed_differences(SeedGrid(np.arange(2), np.arange(1), scores[:, :1])) is None
