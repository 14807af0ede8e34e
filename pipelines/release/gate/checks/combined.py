"""The judges together, each weighted by its agreement with people: a check that informs beside the count of votes.

One judge that is gamed moves any weighted mean, so this decides nothing.
"""

import math
from collections.abc import Sequence

import numpy as np

from alignment.contracts.evaluation import Comparison
from alignment.statistics.comparison import superiority_p_value
from alignment.statistics.power import win_rate_of_effect
from alignment.statistics.reward_hacking import standardised
from alignment.statistics.skewness import skewed_mean_interval
from pipelines.contracts.release import GateCheck
from pipelines.release.gate.checks.interface import Evidence, Finding

_SUREST = 0.99
"""Largest agreement that a weight is computed from: an agreement of 1 would outweigh every other judge."""


def combined_checks(evidence: Evidence, voting: Sequence[Comparison]) -> list[Finding]:
    """Return one informative finding on two or more voting judges; none for fewer.

    Each judge's differences are divided by their standard deviation and weighted by the log odds of its agreement with
    people, as for independent raters (Nitzan and Paroush 1982).
    """
    gains = {c.scorer: evidence.differences(c.scorer) for c in voting}
    known = {judge: gains_P for judge, gains_P in gains.items() if gains_P is not None}
    weights = {judge: _log_odds(evidence.accuracy(judge)) for judge in known}
    if len(known) < 2 or len(known) < len(gains) or not sum(weights.values()):
        return []
    total = sum(weights.values())
    combined_P = np.sum([weights[judge] / total * standardised(own_P) for judge, own_P in known.items()], axis=0)
    p_value = superiority_p_value(combined_P)
    low, high = skewed_mean_interval(combined_P, confidence=1 - 2 * evidence.vote_level)
    passed = p_value <= evidence.vote_level and low > 0
    said = "prefer the candidate" if passed else "speak against it" if high < 0 else "are undecided"
    shares = ", ".join(f"{judge} {own / total:.0%}" for judge, own in weights.items())
    spread = float(combined_P.std(ddof=1))
    effect = float(combined_P.mean()) / spread if spread else 0.0
    check = GateCheck(
        kind="combined",
        relation="<=",
        bound=evidence.vote_level,
        measured=p_value,
        passed=passed,
        decisive=False,
        family="votes",
        note="" if passed else "undecided" if high >= 0 else "warning",
        explanation=f"Weighted by their agreement with people ({shares}), the judges together {said}: effect"
        f" {effect:.3f} (a win rate of about {win_rate_of_effect(effect):.3f}), signed-rank p = {p_value:.3g}. The"
        " votes decide, not this: one gamed judge can move a mean.",
    )
    return [Finding(check)]


def _log_odds(accuracy: float) -> float:
    """Return a judge's weight, 0 for one that agrees with people no more often than chance."""
    share = min(max(accuracy, 0.5), _SUREST)
    return math.log(share / (1 - share))
