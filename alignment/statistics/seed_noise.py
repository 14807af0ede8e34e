"""A/A noise: one model compared with itself on other seeds. It sets the tie thresholds."""

from collections.abc import Sequence

import numpy as np

from alignment.contracts.values import Record
from alignment.statistics.comparison import SeedGrid, mean_interval


class SeedNoise(Record):
    """A scorer's noise between two sets of seeds of one model."""

    scorer: str
    num_prompts: int
    median_absolute_difference: float
    """Median absolute difference of the prompt means: the tie threshold."""
    spread: float
    """Standard deviation of the paired difference over prompts."""
    mean_difference: float
    mean_difference_low: float
    mean_difference_high: float
    sound: bool
    """True when the interval covers 0, as expected when only the seed differs."""


def seed_noise(
    scorer: str, grid: SeedGrid, *, seeds: Sequence[int], other_seeds: Sequence[int], confidence: float
) -> SeedNoise:
    """Measure the noise of means over `seeds` against means over `other_seeds`; both sets must have the same size.

    ValueError when the sets share a seed, differ in number, or are not in the grid.
    """
    own = [int(seed) for seed in grid.seeds_S]
    missing = sorted({*seeds, *other_seeds} - set(own))
    if missing or set(seeds) & set(other_seeds) or len(seeds) != len(other_seeds):
        raise ValueError(
            f"A/A of {scorer!r} needs two sets of seeds of equal size, without a common seed, out of {own}; got"
            f" {list(seeds)} and {list(other_seeds)}."
        )
    differences_P = grid.prompt_means(other_seeds) - grid.prompt_means(seeds)
    low, high = mean_interval(differences_P, confidence=confidence)
    return SeedNoise(
        scorer=scorer,
        num_prompts=len(differences_P),
        median_absolute_difference=float(np.median(np.abs(differences_P))),
        spread=float(differences_P.std(ddof=1)),
        mean_difference=float(differences_P.mean()),
        mean_difference_low=low,
        mean_difference_high=high,
        sound=low <= 0 <= high,
    )
