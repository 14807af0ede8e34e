"""A/A noise between two sets of seeds."""

import numpy as np
import pytest

from alignment.statistics.comparison import SeedGrid
from alignment.statistics.seed_noise import seed_noise


def test_the_threshold_is_the_median_absolute_difference_of_means() -> None:
    """Means over seeds (0, 1) and (5, 6) differ by 1, -2 and 4."""
    scores = np.array([[0.0, 2.0, 1.0, 3.0], [5.0, 5.0, 3.0, 3.0], [0.0, 0.0, 8.0, 0.0]])
    grid = SeedGrid(np.arange(3), np.array([0, 1, 5, 6]), scores)
    found = seed_noise("j", grid, seeds=(0, 1), other_seeds=(5, 6), confidence=0.95)
    assert (found.num_prompts, found.median_absolute_difference) == (3, 2.0)
    assert found.mean_difference == pytest.approx(1.0)
    assert found.sound
    for wrong in ({"seeds": (0, 1), "other_seeds": (1, 5)}, {"seeds": (0,), "other_seeds": (5, 6)}):
        with pytest.raises(ValueError, match="two sets"):
            seed_noise("j", grid, confidence=0.95, **wrong)
    with pytest.raises(ValueError, match="two sets"):
        seed_noise("j", grid, seeds=(0, 9), other_seeds=(5, 6), confidence=0.95)


def test_a_shift_between_the_sets_is_not_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (200, 2))
    shifted = SeedGrid(np.arange(200), np.arange(2), noise + np.array([0.0, 0.5]))
    assert not seed_noise("j", shifted, seeds=(0,), other_seeds=(1,), confidence=0.95).sound
