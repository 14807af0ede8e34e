"""Non-inferiority: bounds and tests of guards and slices. Torch-free.

Everything is over prompts. `level` is one-sided; a confidence is two-sided, so level = (1 - confidence) / 2.
scipy and statsmodels are imported where they are used: DAG files import this package.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from alignment.statistics.comparison import Floats

BISECTIONS = 44


def mcnemar_p_value(worsened: int, improved: int) -> float:
    """One-sided exact McNemar p: the chance of so many worsened prompts if either change were equally likely.

    1 when no prompt changed.
    """
    from scipy import stats

    changed = worsened + improved
    return float(stats.binomtest(worsened, changed, 0.5, alternative="greater").pvalue) if changed else 1.0


def paired_share_interval(worsened: int, improved: int, prompts: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided score interval of the change of a share on the same prompts, (improved - worsened) / prompts.

    Source: Tango 1998, Statistics in Medicine 17:891. Unlike a t interval it does not become a point when few prompts,
    or none, changed. Solved by bisection, because the score falls as the assumed change grows.
    """
    if min(worsened, improved) < 0 or prompts < 1 or worsened + improved > prompts:
        raise ValueError(
            f"{worsened} worsened and {improved} improved of {prompts} prompts:"
            " counts must be at least 0 and sum to at most the number of prompts."
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def score(change: float) -> float:
        b, c, n = improved, worsened, prompts
        linear = -b - c + (2 * n - b + c) * change
        constant = -c * change * (1 - change)
        restricted = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * restricted + change * (1 - change))
        excess = b - c - n * change
        if variance > 0:
            return excess / math.sqrt(variance)
        return math.copysign(math.inf, excess) if excess else 0.0

    estimate = (improved - worsened) / prompts
    return _last_where(lambda x: score(x) <= z, estimate, -1.0), _last_where(lambda x: score(x) >= -z, estimate, 1.0)


def _last_where(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the farthest point from `inside` towards `outside` where the condition still holds, to twelve places."""
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return (inside + outside) / 2


def share_interval(count: int, total: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided Wilson interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, total, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def mean_below_p_value(values_P: Floats, limit: float) -> float:
    """One-sided t test p that the mean over prompts is below `limit`; 0 or 1 when all values are equal."""
    from scipy import stats

    spread = float(values_P.std(ddof=1))
    excess = float(values_P.mean()) - limit
    if spread == 0:
        return 0.0 if excess < 0 else 1.0
    return float(stats.t.cdf(excess / spread * len(values_P) ** 0.5, len(values_P) - 1))


def holm(p_values: Sequence[float], *, level: float) -> tuple[list[float], list[bool]]:
    """Holm-adjusted p values, and the hypotheses rejected at the family-wise level.

    Computed here because statsmodels' multipletests collects garbage at every call, a third of a second in a large
    process.
    """
    p_sorted = np.sort(np.asarray(p_values, dtype=np.float64))
    stepped = np.minimum(1.0, np.maximum.accumulate(p_sorted * np.arange(len(p_sorted), 0, -1)))
    adjusted = np.empty(len(p_sorted))
    adjusted[np.argsort(p_values, kind="stable")] = stepped
    return [float(p) for p in adjusted], [bool(p <= level) for p in adjusted]
