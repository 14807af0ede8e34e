"""Bounds of a win rate that stay valid under any number of looks. Torch-free.

A fixed-sample interval is valid for one look; five looks raise its error from 2.5 % to 8 %. A confidence sequence holds
at every number of picks at once, so you may look after each pick and stop at any time.

Sources: Ville 1939 (a nonnegative martingale that starts at 1 exceeds 1/alpha with probability alpha at most); Robbins
1970 (mixtures of likelihood ratios); Howard, Ramdas, McAuliffe and Sekhon 2021, arXiv:1810.08240, section 3 (the
beta-binomial mixture).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignment.statistics.comparison import Floats

PRIOR_PICKS = 10.0
"""Both parameters of the symmetric beta mixture. 10 puts most of it between 0.3 and 0.7, the usual range of win rates:
the sequence is then narrowest between some hundred and some thousand picks. It is valid with any value.
"""
HALVINGS = 50
"""Number of halvings of the interval in which a bound is sought; enough for double precision."""


@dataclass(frozen=True)
class ConfidenceSequence:
    """Running intersection of the bounds up to each pick: they never widen."""

    low_N: Floats
    high_N: Floats

    def first_above(self, rate: float) -> int | None:
        """Number of picks after which the win rate was first shown to exceed `rate`; None until then."""
        return _first(self.low_N > rate)

    def first_below(self, rate: float) -> int | None:
        """The same for a win rate below `rate`."""
        return _first(self.high_N < rate)

    def first_contradiction(self) -> int | None:
        """Number of picks after which no single win rate is compatible with all of them."""
        return _first(self.low_N > self.high_N)


def _log_e_value(wins_N: Floats, picks_N: Floats, rate: Floats | float) -> Floats:
    """Logarithm of the evidence against a win rate of `rate`, at each number of picks.

    log of B(a + k, a + n - k) / B(a, a) / (p^k (1 - p)^(n - k)): the likelihood of the picks averaged over a
    beta mixture, divided by that under p. Under p it is a martingale with expectation 1.
    """
    from scipy.special import betaln

    losses_N = picks_N - wins_N
    mixture_N = betaln(PRIOR_PICKS + wins_N, PRIOR_PICKS + losses_N) - betaln(PRIOR_PICKS, PRIOR_PICKS)
    log_evidence: Floats = mixture_N - wins_N * np.log(rate) - losses_N * np.log1p(-np.asarray(rate))
    return log_evidence


def confidence_sequence(picks: Sequence[int], *, confidence: float) -> ConfidenceSequence:
    """Bounds of the win rate after each pick, 1 for a win and 0 for a loss, in order of arrival.

    With probability `confidence` the true rate lies within all of them. The picks must be exchangeable given the rate:
    one person's many picks are not independent, so the caller uses a bounded number of each person's. ValueError for
    values other than 0 and 1, or no picks.
    """
    picks_N = np.asarray(picks, dtype=np.float64)
    if picks_N.size == 0 or not np.isin(picks_N, (0.0, 1.0)).all():
        raise ValueError(
            f"{picks_N.size} picks, of which some may be neither 0 nor 1. Give at least one pick, each 0 or 1."
        )
    if not 0.5 < confidence < 1:
        raise ValueError(f"Confidence {confidence:g} must lie between 0.5 and 1.")
    wins_N, counts_N = np.cumsum(picks_N), np.arange(1.0, picks_N.size + 1)
    rates_N = wins_N / counts_N
    threshold = -np.log(1 - confidence)
    low_N = _bound(wins_N, counts_N, inside_N=rates_N, outside=0.0, threshold=threshold)
    high_N = _bound(wins_N, counts_N, inside_N=rates_N, outside=1.0, threshold=threshold)
    return ConfidenceSequence(np.maximum.accumulate(low_N), np.minimum.accumulate(high_N))


def _bound(wins_N: Floats, counts_N: Floats, *, inside_N: Floats, outside: float, threshold: float) -> Floats:
    """Find by halving where the evidence reaches the threshold, between the measured rate and 0 or 1.

    The evidence is convex in the rate and smallest at the measured one. The bound returned is on the outer side.
    """
    tiny = np.finfo(np.float64).tiny
    near_N, far_N = inside_N.copy(), np.full_like(inside_N, outside)
    for _ in range(HALVINGS):
        middle_N = (near_N + far_N) / 2
        safe_N = np.clip(middle_N, tiny, 1 - np.finfo(np.float64).epsneg)
        rejected_N = _log_e_value(wins_N, counts_N, safe_N) >= threshold
        far_N = np.where(rejected_N, middle_N, far_N)
        near_N = np.where(rejected_N, near_N, middle_N)
    return far_N


def _first(holds_N: npt.NDArray[np.bool_]) -> int | None:
    return int(np.argmax(holds_N)) + 1 if holds_N.any() else None
