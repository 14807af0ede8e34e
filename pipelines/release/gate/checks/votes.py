"""Who may vote, and how they vote.

A vote asks three things of the paired differences over prompts: that most of them are gains (a signed-rank test, or the
lower bound of the win rate), that the win rate is worth having, and that the gains outweigh the losses (the lower bound
of the mean). The first two count prompts and do not see how large a loss is.

Votes are a partial conjunction: with n voting judges of which k must agree there are n - k + 1 chances too many, so
each vote's error is divided by that number (nothing changes when k = n). For 2 of 3 that is p = 2 p(2).
"""

import math
from collections.abc import Sequence
from typing import Literal

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import Comparison
from alignment.contracts.judges import Judge
from alignment.statistics.comparison import win_rate_interval
from alignment.statistics.reward_hacking import standardised
from alignment.statistics.skewness import skewed_mean_interval
from pipelines.contracts.release import CheckKind, GateCheck, Relation
from pipelines.project.gate import GatePolicy
from pipelines.release.gate.checks.identity import enough
from pipelines.release.gate.checks.interface import (
    Evidence,
    Finding,
    Verdict,
    disagreements,
    finite,
    twin_of,
    weights_of,
)

Stance = Literal["prefers", "is undecided about", "shows no gain worth having from", "speaks against"]
"""What a judge says of a candidate; of the last two more prompts make no vote."""

EVEN = 0.5
"""Win rate of two models that are equally good."""


def ballots(evidence: Evidence) -> tuple[list[Finding], list[Comparison]]:
    """A line per judge on whether it may vote and why not, and the comparisons of those that may."""
    findings: list[Finding] = []
    voting: list[Comparison] = []
    seen: dict[str, str] = {}
    counted = evidence.report.calibrations if evidence.calibrations is None else evidence.calibrations
    calibrations = {calibration.judge: calibration for calibration in counted}
    for judge in evidence.report.spec.judges:
        calibration, comparison = calibrations.get(judge.name), evidence.against_champion(judge.name)
        refusal = _refusal(judge, calibration, evidence)
        refusal = refusal or seen.get(weights_of(judge), "")
        seen.setdefault(weights_of(judge), twin_of(judge.name, votes=not refusal))
        if not refusal and comparison is not None:
            voting.append(comparison)
        findings.append(_ballot(judge, calibration, evidence.policy, refusal))
    judges, needed = len(evidence.report.spec.judges), evidence.policy.voting_judges
    quorum = enough(
        "voting_judges",
        len(voting),
        needed,
        good=f"{len(voting)} of {judges} judges may vote.",
        bad=f"Only {len(voting)} of {judges} judges may vote; {needed} are required.",
    )
    return [*findings, quorum], voting


def _ballot(judge: Judge, calibration: Calibration | None, policy: GatePolicy, refusal: str) -> Finding:
    low = calibration.accuracy_low if calibration else None
    pairs = calibration.num_pairs if calibration else 0
    says = (
        f"{judge.name} may vote: on {pairs} held-out pairs {policy.counted_pairs} its agreement with people is at least"
        f" {low or 0:.3f}."
    )
    check = GateCheck(
        kind="may_vote",
        subject=judge.name,
        relation=">",
        bound=policy.calibration_floor,
        measured=finite(low),
        required=f"> {policy.calibration_floor:g} on >= {policy.minimum_calibration_pairs} pairs, independent",
        passed=not refusal,
        decisive=False,
        family="votes",
        explanation=f"{judge.name} may not vote: it {refusal}." if refusal else says,
    )
    return Finding(check)


def _refusal(judge: Judge, calibration: Calibration | None, evidence: Evidence) -> str:
    """Why a judge may not vote, as the end of a sentence; empty when it may."""
    shared = evidence.shared_lessons(judge)
    if shared:
        return f"is not independent of the candidate, which learnt from or was chosen by {', '.join(shared)} too"
    if judge.name in evidence.barred:
        return evidence.barred[judge.name]
    if calibration is None:
        return "was not checked against human pairs"
    return next(iter(disagreements(calibration, evidence.policy)), "")


def superiority_checks(evidence: Evidence, voting: Sequence[Comparison]) -> list[Finding]:
    """The lines of each vote, and the line that counts them."""
    required = evidence.policy.required_judges
    chances = max(1, len(voting) - required + 1)
    lines: list[Finding] = []
    stances: list[Stance] = []
    for comparison in voting:
        findings, stance = _vote(evidence, comparison, chances)
        lines += findings
        stances.append(stance)
    in_favour = stances.count("prefers")
    passed = in_favour >= required
    out_of_reach = in_favour + stances.count("is undecided about") < required
    explanation = f"{in_favour} of {len(voting)} voting judges prefer the candidate; {required} are required."
    if not passed:
        explanation += _refusals(stances) if out_of_reach else " The others are undecided: ask more prompts."
    check = GateCheck(
        kind="preferred_by_judges",
        relation=">=",
        bound=required,
        measured=in_favour,
        passed=passed,
        family="votes",
        note="" if passed or out_of_reach else "undecided",
        explanation=explanation,
    )
    allows: Verdict = "promote" if passed else "hold" if out_of_reach else "inconclusive"
    return [*lines, Finding(check, allows)]


def _refusals(stances: Sequence[Stance]) -> str:
    """How many judges more prompts would not win over."""
    against, indifferent = stances.count("speaks against"), stances.count("shows no gain worth having from")
    parts = [f"{against} speak against it"] if against else []
    parts += [f"{indifferent} show no gain worth having"] if indifferent else []
    return f" {' and '.join(parts)}."


def _vote(evidence: Evidence, comparison: Comparison, chances: int) -> tuple[list[Finding], Stance]:
    """One judge's lines, all of which must pass for its vote, and what it says of the candidate by all of them."""
    policy, confidence = evidence.policy, 1 - (1 - evidence.report.spec.confidence) / chances
    low, high = _bounds(comparison, confidence)
    mean_low, mean_high = _mean_bounds(evidence, comparison, confidence)
    if policy.superiority == "win_rate":
        lines = [_certified_win_rate(comparison, low, high=high, policy=policy)]
    else:
        lines = [
            _shift(comparison, evidence.level, chances),
            _measured_win_rate(comparison, low, high=high, policy=policy),
        ]
    lines.append(_mean_gain(comparison, mean_low, high=mean_high))
    if policy.minimum_effect:
        lines.append(_effect(evidence, comparison))
    stance = _stance(high, minimum=policy.minimum_win_rate, passed=all(line.check.passed for line in lines))
    return lines, "speaks against" if mean_high < 0 else stance


def _stance(high: float, *, minimum: float, passed: bool) -> Stance:
    """What the bounds of a win rate say: harm when all of it lies below one half, too little when below the minimum."""
    if passed:
        return "prefers"
    if high < EVEN:
        return "speaks against"
    return "shows no gain worth having from" if high <= minimum else "is undecided about"


def _bounds(comparison: Comparison, confidence: float) -> tuple[float, float]:
    """Bounds of the win rate at the confidence of a vote; counts that make no sense are an invalid report anyway."""
    counts = (comparison.wins, comparison.ties, comparison.losses)
    if min(counts) < 0 or sum(counts) == 0:
        return 0.0, 1.0
    return win_rate_interval(*counts, confidence=confidence)


def _mean_bounds(evidence: Evidence, comparison: Comparison, confidence: float) -> tuple[float, float]:
    """Bounds of the mean gain; without a whole grid, which makes the evidence invalid, nothing is known."""
    differences_P = evidence.differences(comparison.scorer)
    if differences_P is None or len(differences_P) < 2:
        return -math.inf, math.inf
    return skewed_mean_interval(differences_P, confidence=confidence)


def _line(
    kind: CheckKind,
    judge: str,
    measured: float,
    *,
    relation: Relation,
    bound: float,
    required: str = "",
    passed: bool,
    explanation: str,
) -> Finding:
    """A line of one vote: it informs, the count decides."""
    check = GateCheck(
        kind=kind,
        subject=judge,
        relation=relation,
        bound=bound,
        measured=finite(measured),
        required=required,
        passed=passed,
        decisive=False,
        family="votes",
        explanation=explanation,
    )
    return Finding(check)


def _shift(comparison: Comparison, level: float, chances: int) -> Finding:
    limit = level / chances
    passed = comparison.p_value <= limit
    often = f" ({level:g} shared by {chances} chances)" if chances > 1 else ""
    return _line(
        "superiority",
        comparison.scorer,
        comparison.p_value,
        relation="<=",
        bound=limit,
        required=f"p <= {limit:.3g}",
        passed=passed,
        explanation=f"{comparison.scorer}: the candidate {'scores' if passed else 'does not clearly score'} higher"
        f" on the same prompts, one-sided signed-rank p = {comparison.p_value:.3g}; needed is {limit:.3g}{often}.",
    )


def _measured_win_rate(comparison: Comparison, low: float, *, high: float, policy: GatePolicy) -> Finding:
    minimum = policy.minimum_win_rate
    passed = comparison.win_rate >= minimum
    return _line(
        "win_rate",
        comparison.scorer,
        comparison.win_rate,
        relation=">=",
        bound=minimum,
        passed=passed,
        explanation=f"{_says(comparison, low, high=high, minimum=minimum, passed=passed)}; measured is"
        f" {comparison.win_rate:.3f}, worth having is {minimum:g} and more.",
    )


def _certified_win_rate(comparison: Comparison, low: float, *, high: float, policy: GatePolicy) -> Finding:
    minimum = policy.minimum_win_rate
    passed = low > minimum
    return _line(
        "win_rate",
        comparison.scorer,
        low,
        relation=">",
        bound=minimum,
        passed=passed,
        explanation=f"{_says(comparison, low, high=high, minimum=minimum, passed=passed)}.",
    )


def _says(comparison: Comparison, low: float, *, high: float, minimum: float, passed: bool) -> str:
    says = _stance(high, minimum=minimum, passed=passed)
    return (
        f"{comparison.scorer} {says} the candidate: {comparison.wins} wins, {comparison.ties} ties,"
        f" {comparison.losses} losses; win rate between {low:.3f} and {high:.3f}"
    )


def _mean_gain(comparison: Comparison, low: float, *, high: float) -> Finding:
    """More wins than losses are no gain where the losses are larger."""
    passed = low > 0
    outweighed = not passed and comparison.wins > comparison.losses
    why = "; it wins more often than it loses, but losses may be larger than wins" if outweighed else ""
    return _line(
        "mean_gain",
        comparison.scorer,
        low,
        relation=">",
        bound=0.0,
        passed=passed,
        explanation=f"{comparison.scorer}: the mean gain is between {low:.3g} and {high:.3g} (corrected for skewness),"
        f" above 0 is required{why}.",
    )


def _effect(evidence: Evidence, comparison: Comparison) -> Finding:
    minimum = evidence.policy.minimum_effect
    differences_P = evidence.differences(comparison.scorer)
    effect = float("nan") if differences_P is None else float(standardised(differences_P).mean())
    return _line(
        "effect",
        comparison.scorer,
        effect,
        relation=">=",
        bound=minimum,
        passed=effect >= minimum,
        explanation=f"{comparison.scorer}: the mean gain is {effect:.3f} standard deviations of the differences;"
        f" {minimum:g} is required.",
    )
