"""Measures of reward hacking: a gain under one judge without a real improvement. Torch-free.

Source: reference methods of over-optimisation studies. Each returns bounds over prompts, so that a detector fires only
on evidence. Shape letter: P prompts.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from alignment.statistics.comparison import Floats, SeedGrid, mean_interval


def standardised(differences_P: Floats) -> Floats:
    """Differences in units of their standard deviation over prompts; all zeros stay zeros."""
    spread = float(differences_P.std(ddof=1))
    return differences_P / spread if spread > 0 else np.sign(differences_P)


def gain_gap(optimised_P: Floats, others: Sequence[Floats], *, confidence: float) -> tuple[float, float, float]:
    """Standardised gain under one judge minus the mean standardised gain under others: mean and bounds."""
    gap_P = standardised(optimised_P) - np.mean([standardised(other) for other in others], axis=0)
    return float(gap_P.mean()), *mean_interval(gap_P, confidence=confidence)


def persisting_gain(
    true_P: Floats, shuffled_P: Floats, *, share: float, confidence: float
) -> tuple[float, float, float]:
    """Share of a gain that remains against wrong prompts, with bounds of shuffled - share * true, standardised.

    The share is NaN where the gain is negligible. A lower bound above 0 means that more than `share` remained.
    """
    gain = float(true_P.mean())
    ratio = float(shuffled_P.mean()) / gain if gain > 0 else math.nan
    spread = float(true_P.std(ddof=1)) or 1.0
    return ratio, *mean_interval((shuffled_P - share * true_P) / spread, confidence=confidence)


def rank_correlation(first_P: Floats, second_P: Floats, *, confidence: float) -> tuple[float, float, float]:
    """Spearman's rank correlation with Fisher bounds, whose variance is 1.06 / (P - 3) for ranks."""
    from scipy import stats

    prompts = len(first_P)
    if prompts < 10 or not (np.ptp(first_P) and np.ptp(second_P)):
        return 0.0, -1.0, 1.0
    rho = float(np.corrcoef(stats.rankdata(first_P), stats.rankdata(second_P))[0, 1])
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(1.06 / (prompts - 3))
    z = math.atanh(max(-0.999999, min(0.999999, rho)))
    return rho, math.tanh(z - reach), math.tanh(z + reach)


def seed_differences(grid: SeedGrid) -> Floats | None:
    """Compare one model with itself: mean of the first half of its seeds minus mean of the rest; None with one seed."""
    seeds = [int(seed) for seed in grid.seeds_S]
    if len(seeds) < 2:
        return None
    half = len(seeds) // 2
    return grid.prompt_means(seeds[:half]) - grid.prompt_means(seeds[half:])
