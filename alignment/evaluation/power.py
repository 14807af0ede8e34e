"""How many prompts a verdict needs. Torch-free; scipy is imported where it is used.

`effect` is the standardised effect: the mean over prompts of the paired difference, in units of its standard deviation.
`level` is one-sided.
"""

from collections.abc import Callable

WILCOXON_EFFICIENCY = 3 / 3.141592653589793
"""Prompts that the t test needs for what the Wilcoxon test finds in one, for normal differences; heavier tails favour it."""

MOST_PROMPTS = 10_000_000


def win_rate_of_effect(effect: float) -> float:
    """How often normal differences with this standardised effect win."""
    from scipy import stats

    return float(stats.norm.cdf(effect))


def shift_power(effect: float, prompts: float, *, level: float, efficiency: float = 1.0) -> float:
    """Chance that a one-sided t test finds the effect; `efficiency` turns prompts into those of another test."""
    from scipy import stats

    effective = prompts * efficiency
    if effective <= 2:
        return 0.0
    freedom = effective - 1
    # The normal approximation of the noncentral t is exact to four places from a hundred prompts on, and never NaN.
    if freedom > 1000:
        return float(stats.norm.sf(stats.norm.isf(level) - effect * effective**0.5))
    return float(stats.nct.sf(stats.t.isf(level, freedom), freedom, effect * effective**0.5))


def win_rate_power(rate: float, prompts: int, *, minimum: float, level: float, tie_share: float = 0.0) -> float:
    """Chance that the lower bound of the win rate exceeds `minimum` when decided prompts are won at `rate`."""
    from scipy import stats

    true = rate * (1 - tie_share) + tie_share / 2

    def spread(p: float) -> float:
        return float(max(0.0, p * (1 - p) - tie_share / 4)) ** 0.5

    if spread(true) == 0:
        return float(true > minimum)
    reach = (true - minimum) * prompts**0.5 - stats.norm.isf(level) * spread(minimum)
    return float(stats.norm.cdf(reach / spread(true)))


def k_of_n_power(single: float, required: int, judges: int) -> float:
    """Least chance that at least `required` of `judges` judges find what each finds with chance `single`.

    The lesser of independent and of identical judges; what lies between them is as a rule between.
    """
    from scipy import stats

    return min(single, float(stats.binom.sf(required - 1, judges, single)))


def noninferiority_power(margin: float, spread: float, prompts: int, *, level: float) -> float:
    """Chance that a guard holds when nothing changed; `spread` is the standard deviation of the paired difference."""
    return 1.0 if spread == 0 else shift_power(margin / spread, prompts, level=level)


def prompts_needed(power_at: Callable[[int], float], power: float) -> int | None:
    """Fewest prompts from which `power_at`, which grows with them, reaches `power`; None when ten million do not."""
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
