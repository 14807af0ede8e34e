"""Decide which judges may vote, and count their votes.

A vote requires three properties of the paired differences over prompts: most of them are gains (a signed-rank test, or
the lower bound of the win rate), the win rate is worth having, and the gains outweigh the losses (the lower bound of
the mean). The first two count prompts and ignore how large a loss is.

Votes are a partial conjunction: with n voting judges of which k must agree, there are n - k + 1 chances of a false
result, so each vote's level is divided by that number (nothing changes when k = n). For 2 of 3 that is p = 2 p(2).

Two judges with one pre-trained encoder can be gamed by one flaw of it. The votes must therefore come from several
encoder families, and a judge that votes against the candidate is a veto unless the policy says otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import Comparison
from alignment.contracts.judges import Judge
from alignment.statistics.agreement import disattenuated_win_rate
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
    duplicate_of,
    finite,
    weights_of,
)

Stance = Literal["prefers", "is undecided about", "shows no gain worth having from", "votes against"]
"""A judge's result on a candidate; more prompts do not turn the last two into a vote."""

EVEN = 0.5
"""Win rate of two models that are equally good."""


def ballots(evidence: Evidence) -> tuple[list[Finding], list[Comparison]]:
    """Return one finding per judge on its right to vote, and the comparisons of the judges that may vote."""
    findings: list[Finding] = []
    voting: list[Comparison] = []
    seen: dict[str, str] = {}
    counted = evidence.report.calibrations if evidence.calibrations is None else evidence.calibrations
    calibrations = {calibration.judge: calibration for calibration in counted}
    for judge in evidence.report.spec.judges:
        calibration, comparison = calibrations.get(judge.name), evidence.against_champion(judge.name)
        refusal = _refusal(judge, calibration, evidence)
        refusal = refusal or seen.get(weights_of(judge), "")
        seen.setdefault(weights_of(judge), duplicate_of(judge.name, votes=not refusal))
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
    allowed = (
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
        explanation=f"{judge.name} may not vote: it {refusal}." if refusal else allowed,
    )
    return Finding(check)


def _refusal(judge: Judge, calibration: Calibration | None, evidence: Evidence) -> str:
    """Return the reason why a judge may not vote, as the end of a sentence; empty when it may."""
    shared = evidence.shared_sources(judge)
    if shared:
        return f"is not independent of the candidate: both learnt from {', '.join(shared)}"
    if judge.name in evidence.barred:
        return evidence.barred[judge.name]
    if calibration is None:
        return "was not checked against human pairs"
    return next(iter(disagreements(calibration, evidence.policy)), "")


def superiority_checks(evidence: Evidence, voting: Sequence[Comparison]) -> list[Finding]:
    """Return the findings of each vote, and the finding that counts the votes."""
    chances = max(1, len(voting) - evidence.policy.required_judges + 1)
    lines: list[Finding] = []
    stances: dict[str, Stance] = {}
    for comparison in voting:
        findings, stances[comparison.scorer] = _vote(evidence, comparison, chances)
        lines += findings
    families = [_families(evidence, stances)] if evidence.policy.families > 1 else []
    vetoes = [_veto(stances)] if evidence.policy.veto else []
    return [*lines, _count(evidence, list(stances.values())), *families, *vetoes]


def _count(evidence: Evidence, stances: Sequence[Stance]) -> Finding:
    """Check that enough judges prefer the candidate."""
    required, in_favour = evidence.policy.required_judges, stances.count("prefers")
    passed = in_favour >= required
    out_of_reach = in_favour + stances.count("is undecided about") < required
    explanation = f"{in_favour} of {len(stances)} voting judges prefer the candidate; {required} are required."
    if not passed:
        explanation += _refusals(stances) if out_of_reach else " More prompts may decide the undecided judges."
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
    return Finding(check, _allowed(passed, out_of_reach=out_of_reach))


def _allowed(passed: bool, *, out_of_reach: bool) -> Verdict:
    return "promote" if passed else "hold" if out_of_reach else "inconclusive"


def _families(evidence: Evidence, stances: Mapping[str, Stance]) -> Finding:
    """Check that the judges in favour do not all have one encoder."""
    required = evidence.policy.families
    family_of = {judge.name: judge.family for judge in evidence.report.spec.judges}
    in_favour = {family_of[judge] for judge, stance in stances.items() if stance == "prefers"}
    possible = {family_of[judge] for judge, stance in stances.items() if stance in ("prefers", "is undecided about")}
    passed, out_of_reach = len(in_favour) >= required, len(possible) < required
    more = "" if passed or out_of_reach else " More prompts may decide the undecided judges."
    check = GateCheck(
        kind="families",
        relation=">=",
        bound=required,
        measured=len(in_favour),
        passed=passed,
        family="votes",
        note="" if passed or out_of_reach else "undecided",
        explanation=f"The judges in favour have {_encoders(len(in_favour))}; {required} are required, because judges"
        f" with one encoder have the same blind spots.{more}",
    )
    return Finding(check, _allowed(passed, out_of_reach=out_of_reach))


def _encoders(number: int) -> str:
    return "1 encoder family" if number == 1 else f"{number} encoder families"


def _veto(stances: Mapping[str, Stance]) -> Finding:
    """Check that no voting judge votes against the candidate."""
    against = [judge for judge, stance in stances.items() if stance == "votes against"]
    explanation = (
        f"{' and '.join(against)} {'votes' if len(against) == 1 else 'vote'} against the candidate, which is a veto:"
        " the other judges may share a flaw. gate.veto = false counts votes only."
        if against
        else "No voting judge votes against the candidate."
    )
    check = GateCheck(
        kind="veto",
        relation="<=",
        bound=0,
        measured=len(against),
        passed=not against,
        family="votes",
        explanation=explanation,
    )
    return Finding(check, "hold" if against else "promote")


def _refusals(stances: Sequence[Stance]) -> str:
    """Return how many judges will not vote for the candidate, however many prompts are added."""
    against, indifferent = stances.count("votes against"), stances.count("shows no gain worth having from")
    parts = [f"{against} {'votes' if against == 1 else 'vote'} against it"] if against else []
    parts += [f"{indifferent} {'shows' if indifferent == 1 else 'show'} no gain worth having"] if indifferent else []
    return f" {' and '.join(parts)}."


def _vote(evidence: Evidence, comparison: Comparison, chances: int) -> tuple[list[Finding], Stance]:
    """Return one judge's findings, all of which must pass for its vote, and its stance."""
    policy, minimum = evidence.policy, evidence.win_rate_needed(comparison.scorer)
    # A gain is tested more strictly with every try of the quarter, harm never less strictly.
    gain, harm = (1 - 2 * level / chances for level in (evidence.vote_level, evidence.level))
    low, high = _bounds(comparison, gain)[0], _bounds(comparison, harm)[1]
    mean_low, mean_high = _mean_bounds(evidence, comparison, gain)[0], _mean_bounds(evidence, comparison, harm)[1]
    if policy.superiority == "win_rate":
        lines = [_certified_win_rate(evidence, comparison, low, high=high)]
    else:
        lines = [
            _shift(comparison, evidence.vote_level, chances),
            _measured_win_rate(evidence, comparison, low, high=high),
        ]
    lines.append(_mean_gain(comparison, mean_low, high=mean_high))
    if policy.minimum_effect:
        lines.append(_effect(evidence, comparison))
    stance = _stance(high, minimum=minimum, passed=all(line.check.passed for line in lines))
    return lines, "votes against" if mean_high < 0 else stance


def _stance(high: float, *, minimum: float, passed: bool) -> Stance:
    """Return the stance that the bounds of a win rate show: against when the whole interval is below one half, no gain
    worth having when it is below the minimum."""
    if passed:
        return "prefers"
    if high < EVEN:
        return "votes against"
    return "shows no gain worth having from" if high <= minimum else "is undecided about"


def _bounds(comparison: Comparison, confidence: float) -> tuple[float, float]:
    """Return bounds of the win rate at the confidence of a vote; impossible counts, which make the report invalid, give
    0 to 1."""
    counts = (comparison.wins, comparison.ties, comparison.losses)
    if min(counts) < 0 or sum(counts) == 0:
        return 0.0, 1.0
    return win_rate_interval(*counts, confidence=confidence)


def _mean_bounds(evidence: Evidence, comparison: Comparison, confidence: float) -> tuple[float, float]:
    """Return bounds of the mean gain; infinite without a complete grid, which makes the evidence invalid."""
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
    """Return one finding of a vote. It informs only: the number of votes decides."""
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
    often = f" ({level:g} divided by {chances} chances)" if chances > 1 else ""
    return _line(
        "superiority",
        comparison.scorer,
        comparison.p_value,
        relation="<=",
        bound=limit,
        required=f"p <= {limit:.3g}",
        passed=passed,
        explanation=f"{comparison.scorer}: the candidate {'scores' if passed else 'does not clearly score'} higher"
        f" on the same prompts, one-sided signed-rank p = {comparison.p_value:.3g}; at most {limit:.3g}{often} is"
        " required.",
    )


def _measured_win_rate(evidence: Evidence, comparison: Comparison, low: float, *, high: float) -> Finding:
    minimum = evidence.win_rate_needed(comparison.scorer)
    passed = comparison.win_rate >= minimum
    return _line(
        "win_rate",
        comparison.scorer,
        comparison.win_rate,
        relation=">=",
        bound=minimum,
        required=f">= {minimum:.3g}",
        passed=passed,
        explanation=f"{_describe(comparison, low, high=high, minimum=minimum, passed=passed)}; the measured win rate is"
        f" {comparison.win_rate:.3f}, at least {minimum:.3g} is required{_among_people(evidence, comparison)}.",
    )


def _certified_win_rate(evidence: Evidence, comparison: Comparison, low: float, *, high: float) -> Finding:
    minimum = evidence.win_rate_needed(comparison.scorer)
    passed = low > minimum
    return _line(
        "win_rate",
        comparison.scorer,
        low,
        relation=">",
        bound=minimum,
        required=f"> {minimum:.3g}",
        passed=passed,
        explanation=f"{_describe(comparison, low, high=high, minimum=minimum, passed=passed)}; a lower bound above"
        f" {minimum:.3g} is required{_among_people(evidence, comparison)}.",
    )


def _among_people(evidence: Evidence, comparison: Comparison) -> str:
    """Return what a judge's win rate says about people's: the required and the expected one."""
    accuracy = evidence.accuracy(comparison.scorer)
    if accuracy == 1:
        return ""
    if accuracy == EVEN:
        return ", but at an agreement of one half it says nothing about people"
    expected = f"the measured one is {disattenuated_win_rate(comparison.win_rate, accuracy):.3f} among people"
    if comparison.win_rate >= accuracy:
        expected = "the measured one is more than a judge of this agreement shows even if people always prefer it"
    return f", which is {evidence.policy.minimum_win_rate:g} among people at an agreement of {accuracy:.3f}; {expected}"


def _describe(comparison: Comparison, low: float, *, high: float, minimum: float, passed: bool) -> str:
    stance = _stance(high, minimum=minimum, passed=passed)
    return (
        f"{comparison.scorer} {stance} the candidate: {comparison.wins} wins, {comparison.ties} ties,"
        f" {comparison.losses} losses; win rate between {low:.3f} and {high:.3f}"
    )


def _mean_gain(comparison: Comparison, low: float, *, high: float) -> Finding:
    """Check the mean gain: a candidate that wins more often than it loses is no better if the losses are larger."""
    passed = low > 0
    outweighed = not passed and comparison.wins > comparison.losses
    why = "; the candidate wins more often than it loses, but its losses may be larger" if outweighed else ""
    return _line(
        "mean_gain",
        comparison.scorer,
        low,
        relation=">",
        bound=0.0,
        passed=passed,
        explanation=f"{comparison.scorer}: the mean gain is between {low:.3g} and {high:.3g} (corrected for skewness);"
        f" a lower bound above 0 is required{why}.",
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
