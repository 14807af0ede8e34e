"""An interval of a mean that stays valid when a few prompts lose or gain far more than the others. Torch-free.

Shape letter: P prompts.
"""

import math

from alignment.statistics.comparison import Floats, mean_interval

STRAIGHT = 1e-6
"""Skewness over the root of the number of prompts below which the correction is less than rounding."""


def skewed_mean_interval(values_P: Floats, *, confidence: float) -> tuple[float, float]:
    """Two-sided interval of the mean over prompts, each bound corrected for the skewness of the values.

    Source: Hall 1992, "On the removal of skewness by transformation", JRSS B 54:221, the cubic transformation
    T + a T^2 k + a^2 T^3 k^2 / 3 + k / 6 with a = 1/3 and k = skewness / sqrt(P), inverted at Student's quantile, so
    that values without skewness have their t interval. Like the BCa bootstrap it is second-order accurate, but without
    resampling. The t interval is not: where 1 % of 1632 prompts lose 20 standard deviations and the mean is 0, its
    lower bound at 1.25 % lies above 0 in 2.6 % of samples, this one in 1.3 %. No interval accounts for losses that the
    sample does not contain.

    A point when all values are equal. Raises ValueError for fewer than 2 prompts.
    """
    low, high = mean_interval(values_P, confidence=confidence)
    mean, spread = float(values_P.mean()), float(values_P.std())
    if high == low or spread == 0:
        return low, high
    prompts = len(values_P)
    k = float((((values_P - mean) / spread) ** 3).mean()) / math.sqrt(prompts)
    unit = float(values_P.std(ddof=1)) / math.sqrt(prompts)
    quantile = (high - low) / 2 / unit
    return mean - unit * _studentised(quantile, k), mean - unit * _studentised(-quantile, k)


def _studentised(quantile: float, k: float) -> float:
    """The Studentised deviation whose transform is this quantile."""
    if abs(k) < STRAIGHT:
        return quantile
    return 3 / k * (math.cbrt(1 + k * (quantile - k / 6)) - 1)
