"""Number of prompts that a verdict needs. Torch-free; scipy is imported where it is used.

`effect` is the standardised effect: the mean over prompts of the paired difference, in units of its standard deviation.
`level` is one-sided.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()

WILCOXON_EFFICIENCY = 3 / 3.141592653589793
"""Efficiency of the Wilcoxon test relative to the t test for normal differences; heavier tails favour Wilcoxon."""

MOST_PROMPTS = 10_000_000


def win_rate_of_effect(effect: float) -> float:
    """Probability that a normal difference with this standardised effect is a win."""
    return _NORMAL.cdf(effect)


def shift_power(effect: float, prompts: float, *, level: float, efficiency: float = 1.0) -> float:
    """Chance that a one-sided t test finds the effect; `efficiency` scales the prompts to those of another test."""
    effective = prompts * efficiency
    if effective <= 2:
        return 0.0
    freedom = effective - 1
    if freedom > 1000:
        # In this range the noncentral t is normal to three places, and the normal is much faster to compute.
        return _NORMAL.cdf(effect * math.sqrt(effective) + _NORMAL.inv_cdf(level))
    from scipy import stats

    return float(stats.nct.sf(stats.t.isf(level, freedom), freedom, effect * effective**0.5))


def win_rate_power(rate: float, prompts: int, *, minimum: float, level: float, tie_share: float = 0.0) -> float:
    """Chance that the lower bound of the win rate exceeds `minimum` when decided prompts are won at `rate`."""
    true = rate * (1 - tie_share) + tie_share / 2

    def spread(p: float) -> float:
        return math.sqrt(max(0.0, p * (1 - p) - tie_share / 4))

    if spread(true) == 0:
        return float(true > minimum)
    reach = (true - minimum) * prompts**0.5 - (-_NORMAL.inv_cdf(level)) * spread(minimum)
    return float(_NORMAL.cdf(reach / spread(true)))


@lru_cache(maxsize=1024)
def win_rate_found(prompts: int, *, limit: float, level: float, power: float, tie_share: float = 0.0) -> float | None:
    """Highest win rate, ties half, at which harm is found with chance `power`; None when no rate is low enough.

    Harm is found as the gate's slices find it: signed-rank evidence at `level`, and a measured rate below `limit`.
    Differences are assumed normal; `level` is Holm's level for the first of the tests. Results are cached: slices of
    one size need the same number, and a simulation needs it in every decision.
    """

    def chance(rate: float) -> float:
        decided = min(max((rate - tie_share / 2) / (1 - tie_share), 1e-9), 0.5)
        seen = shift_power(-_NORMAL.inv_cdf(decided), prompts, level=level, efficiency=WILCOXON_EFFICIENCY)
        spread = math.sqrt(max(0.0, rate * (1 - rate) - tie_share / 4))
        measured = _NORMAL.cdf((limit - rate) * math.sqrt(prompts) / spread) if spread else float(rate < limit)
        return seen + measured - 1

    found, missed = tie_share / 2, limit
    # The smallest p of the signed-rank test is that of every prompt lost.
    if tie_share >= 1 or 0.5**prompts > level or found >= limit or chance(found) < power:
        return None
    while missed - found > 1e-4:
        middle = (found + missed) / 2
        found, missed = (middle, missed) if chance(middle) >= power else (found, middle)
    return found


def k_of_n_power(single: float, required: int, judges: int) -> float:
    """Lowest chance that at least `required` of `judges` judges find what each finds with chance `single`.

    The smaller of the chances for independent and for identical judges; partly dependent judges usually lie between.
    """
    from scipy import stats

    return min(single, float(stats.binom.sf(required - 1, judges, single)))


def noninferiority_power(margin: float, spread: float, prompts: int, *, level: float) -> float:
    """Chance that a guard holds when nothing changed; `spread` is the standard deviation of the paired difference."""
    return 1.0 if spread == 0 else shift_power(margin / spread, prompts, level=level)


def prompts_needed(power_at: Callable[[int], float], power: float) -> int | None:
    """Smallest number of prompts at which the increasing `power_at` reaches `power`; None above ten million."""
    high = 4
    while power_at(high) < power:
        high *= 2
        if high > MOST_PROMPTS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= power else (middle, high)
    return high
