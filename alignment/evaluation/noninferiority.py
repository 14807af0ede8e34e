"""Is it at least not worse: bounds and tests of guards and slices. Torch-free.

Everything is over prompts. `level` is one-sided; a confidence is two-sided, so level = (1 - confidence) / 2.
scipy and statsmodels are imported where they are used: DAG files import this package.
"""

import math
from collections.abc import Sequence

import numpy as np

from alignment.evaluation.comparison import Floats


def mcnemar_p_value(worsened: int, improved: int) -> float:
    """One-sided exact McNemar: the chance of so many prompts worsening if worsening and improving were equally likely.

    1 when no prompt changed.
    """
    from scipy import stats

    changed = worsened + improved
    return float(stats.binomtest(worsened, changed, 0.5, alternative="greater").pvalue) if changed else 1.0


def paired_share_interval(worsened: int, improved: int, prompts: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided score interval of the change of a share on the same prompts, (improved - worsened) / prompts.

    Source: Tango 1998, Statistics in Medicine 17:891. Unlike a t interval it does not become a point when few prompts,
    or none, changed. Solved by bisection, for the score falls as the supposed change grows.
    """
    from scipy import optimize, stats

    if not (min(worsened, improved) >= 0 and 0 < worsened + improved <= prompts or worsened == improved == 0 < prompts):
        raise ValueError(f"{worsened} worsened and {improved} improved of {prompts} prompts do not add up.")
    z = float(stats.norm.ppf(0.5 + confidence / 2))

    def score(change: float) -> float:
        b, c, n = improved, worsened, prompts
        linear = -b - c + (2 * n - b + c) * change
        constant = -c * change * (1 - change)
        restricted = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * restricted + change * (1 - change))
        return (b - c - n * change) / math.sqrt(variance) if variance > 0 else math.inf * (b - c - n * change)

    estimate, edge = (improved - worsened) / prompts, 1 - 1e-12
    low = -1.0 if score(-edge) < z else optimize.brentq(lambda x: score(x) - z, -edge, estimate)
    high = 1.0 if score(edge) > -z else optimize.brentq(lambda x: score(x) + z, estimate, edge)
    return float(low), float(high)


def share_interval(count: int, total: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided Wilson interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, total, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def win_rate_below_p_value(wins: int, ties: int, losses: int, *, rate: float) -> float:
    """One-sided p that the win rate is below `rate`: a score test with the variance of an outcome in {0, 1/2, 1}.

    The same variance as `comparison.win_rate_interval`, taken at `rate`.
    """
    from scipy import stats

    prompts = wins + ties + losses
    z_prior = 4.0  # pseudo-prompts that are no ties, so that ties alone cannot make the variance vanish
    variance = max(0.0, rate * (1 - rate) - ties / (prompts + z_prior) / 4) / prompts
    if variance <= 0:
        return 1.0
    return float(stats.norm.cdf(((wins + ties / 2) / prompts - rate) / math.sqrt(variance)))


def mean_below_p_value(values_P: Floats, limit: float) -> float:
    """One-sided t test p that the mean over prompts is below `limit`; 0 or 1 when all values are equal."""
    from scipy import stats

    spread = float(values_P.std(ddof=1))
    excess = float(values_P.mean()) - limit
    if spread == 0:
        return 0.0 if excess < 0 else 1.0
    return float(stats.t.cdf(excess / spread * len(values_P) ** 0.5, len(values_P) - 1))


def holm(p_values: Sequence[float], *, level: float) -> tuple[list[float], list[bool]]:
    """Holm-adjusted p values, and which hypotheses fall at the family-wise level."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return [], []
    rejected, adjusted, _, _ = multipletests(np.asarray(p_values), alpha=level, method="holm")
    return [float(p) for p in adjusted], [bool(r) for r in rejected]
