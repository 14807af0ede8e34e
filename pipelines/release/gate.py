"""EvalReport and GatePolicy to GateDecision: pure arithmetic, no I/O.

What each verdict says, strongest first:

- `invalid`: the evidence cannot be used. A measurement is missing, not finite or contradicts the score table, the
  report speaks of other weights, there are too few prompts, scoring had problems, or fewer than the required number
  of judges may vote.
- `hold`: the evidence speaks against the candidate. Even if every undecided judge came round, too few could prefer it;
  or a guard's upper bound is below its margin; or the candidate is the champion already.
- `inconclusive`: sound evidence, but not enough of it. More prompts may settle it.
- `promote`: at least the required number of voting judges prefer the candidate, and every guard holds.

Votes are a partial conjunction: with n voting judges of which k must agree there are n - k + 1 chances too many, so
each vote's error is divided by that number (nothing changes when k = n). Guards all have to hold, which needs no
correction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignment.contracts import Calibration, Comparison, EvalReport, Judge
from alignment.evaluation.comparison import win_rate_interval
from pipelines.contracts import CandidateVersion, GateCheck, GateDecision, GatePolicy
from pipelines.release.evidence import measurement_problems, recompute

__all__ = ["Finding", "decide", "recompute"]

Verdict = Literal["promote", "hold", "inconclusive", "invalid"]

_SEVERITY: tuple[Verdict, ...] = ("promote", "inconclusive", "hold", "invalid")


@dataclass(frozen=True)
class Finding:
    """A check, and the verdict that it alone would allow."""

    check: GateCheck
    allows: Verdict = "promote"


def decide(
    report: EvalReport,
    policy: GatePolicy,
    candidate: CandidateVersion,
    *,
    champion_version: int | None,
    champion_weights_digest: str,
    table_problems: Sequence[str],
) -> GateDecision:
    """The verdict on a candidate, with every check that led to it.

    `champion_version` and `champion_weights_digest` are what the registry says now; without a champion they are None
    and the base's digest. `table_problems` is what `evidence.recompute` found. The policy's mode is only carried along:
    promotion obeys it.
    """
    if candidate.weights_digest == champion_weights_digest:
        findings = [_already_champion(candidate)]
    else:
        integrity = [
            *_identity(report, candidate, champion_version, champion_weights_digest),
            *_soundness(report, policy, table_problems),
        ]
        votes, voting = _ballots(report, policy, candidate)
        guards = _guards(report, policy, candidate)
        findings = [*integrity, *votes, *_superiority(report, policy, voting), *guards]
    return _decision(
        findings,
        report=report,
        policy=policy,
        candidate=candidate,
        champion_version=champion_version,
        champion_weights_digest=champion_weights_digest,
    )


def _decision(
    findings: Sequence[Finding],
    *,
    report: EvalReport,
    policy: GatePolicy,
    candidate: CandidateVersion,
    champion_version: int | None,
    champion_weights_digest: str,
) -> GateDecision:
    verdict = max((finding.allows for finding in findings), key=_SEVERITY.index)
    return GateDecision(
        verdict=verdict,
        mode=policy.mode,
        checks=tuple(finding.check for finding in findings),
        reasons=tuple(f.check.explanation for f in findings if f.check.decisive and not f.check.passed),
        candidate=candidate,
        champion_version=champion_version,
        champion_weights_digest=champion_weights_digest,
        report_digest=report.digest,
        evaluation_uri=report.uri,
        report_uri=report.uri,
        scores_digest=report.scores_digest,
        policy_digest=policy.digest,
    )


# --- is this the right evidence, and is it whole? -----------------------------------------------------------------


def _already_champion(candidate: CandidateVersion) -> Finding:
    explanation = f"Version {candidate.version} is the champion already: the weights are the same."
    check = GateCheck(
        name="differs_from_champion",
        measured=None,
        required="other weights than the champion",
        passed=False,
        explanation=explanation,
    )
    return Finding(check, "hold")


def _fact(name: str, required: str, *, passed: bool, good: str, bad: str, measured: float | None = None) -> Finding:
    """A precondition: the evidence is invalid without it."""
    check = GateCheck(
        name=name, measured=measured, required=required, passed=passed, explanation=good if passed else bad
    )
    return Finding(check, "promote" if passed else "invalid")


def _identity(
    report: EvalReport, candidate: CandidateVersion, champion_version: int | None, champion_digest: str
) -> list[Finding]:
    spec = report.spec
    same_candidate = (spec.candidate.weights_digest, spec.candidate.kind, spec.base_digest) == (
        candidate.weights_digest,
        candidate.kind,
        candidate.base_digest,
    )
    is_base = champion_version is None
    same_champion = spec.champion.weights_digest == champion_digest and (spec.champion.kind == "base") == is_base
    incumbent = "the base model" if is_base else f"version {champion_version}"
    return [
        _fact(
            "candidate_digest",
            "report is about this version",
            passed=same_candidate,
            good=f"The report is about the weights of version {candidate.version} on its base.",
            bad=f"The report is about candidate {spec.candidate.weights_digest[:12]} on base {spec.base_digest[:12]},"
            f" version {candidate.version} is {candidate.weights_digest[:12]} on {candidate.base_digest[:12]}."
            " Evaluate this version.",
        ),
        _fact(
            "champion_digest",
            "report is against the present champion",
            passed=same_champion,
            good=f"The report compares with the present champion, {incumbent}.",
            bad=f"The report compares with {spec.champion.kind} {spec.champion.weights_digest[:12]}, but the champion"
            f" is {incumbent} ({champion_digest[:12]}). Evaluate against it.",
        ),
    ]


def _soundness(report: EvalReport, policy: GatePolicy, table_problems: Sequence[str]) -> list[Finding]:
    missing = measurement_problems(report)
    return [
        _fact(
            "prompts",
            f">= {policy.minimum_prompts}",
            measured=float(report.num_prompts),
            passed=report.num_prompts >= policy.minimum_prompts,
            good=f"{report.num_prompts} prompts were compared.",
            bad=f"{report.num_prompts} prompts are fewer than the {policy.minimum_prompts} that the policy asks for.",
        ),
        _fact(
            "scoring_problems",
            "none",
            measured=float(len(report.problems)),
            passed=not report.problems,
            good="Sampling and scoring reported no problem.",
            bad=f"Sampling or scoring had problems: {_listed(report.problems)}",
        ),
        _fact(
            "measurements",
            "complete and finite",
            measured=float(len(missing)),
            passed=not missing,
            good="Every judge and guard was measured against the champion and the base on every prompt.",
            bad=f"The report is not whole: {_listed(missing)}",
        ),
        _fact(
            "score_table",
            "gives the same numbers",
            measured=float(len(table_problems)),
            passed=not table_problems,
            good="The score table gives the numbers of the report again.",
            bad=f"The score table and the report disagree: {_listed(table_problems)}",
        ),
    ]


def _listed(problems: Sequence[str], most: int = 3) -> str:
    rest = f" (and {len(problems) - most} more)" if len(problems) > most else ""
    return "; ".join(problem.rstrip(".") for problem in problems[:most]) + rest + "."


# --- who may vote, and how they vote ------------------------------------------------------------------------------


def _ballots(
    report: EvalReport, policy: GatePolicy, candidate: CandidateVersion
) -> tuple[list[Finding], list[Comparison]]:
    """One informing line per judge on its right to vote, the line that counts them, and the votes to be cast."""
    findings, voting, seen = [], [], set[tuple[str, str]]()
    for judge in report.spec.judges:
        calibration = next((c for c in report.calibrations if c.judge == judge.name), None)
        comparison = _against_champion(report, judge.name)
        refusal = _refusal(judge, calibration, policy, candidate)
        identity = (judge.weights_digest, judge.scorer.model_dump_json())
        if not refusal and identity in seen:
            refusal = "has the same weights as another judge, which votes already"
        seen.add(identity)
        if not refusal and comparison is not None:
            voting.append(comparison)
        findings.append(_ballot(judge, calibration, policy, refusal))
    enough = _fact(
        "voting_judges",
        f">= {policy.required_judges}",
        measured=float(len(voting)),
        passed=len(voting) >= policy.required_judges,
        good=f"{len(voting)} of {len(report.spec.judges)} judges may vote.",
        bad=f"Only {len(voting)} of {len(report.spec.judges)} judges may vote; {policy.required_judges} are required.",
    )
    return [*findings, enough], voting


def _ballot(judge: Judge, calibration: Calibration | None, policy: GatePolicy, refusal: str) -> Finding:
    low = calibration.accuracy_low if calibration else None
    pairs = calibration.num_pairs if calibration else 0
    says = f"{judge.name} may vote: on {pairs} held-out pairs its agreement with people is at least {low or 0:.3f}."
    check = GateCheck(
        name=f"may_vote:{judge.name}",
        measured=low if low is not None and math.isfinite(low) else None,
        required=f"> {policy.calibration_floor:g} on >= {policy.minimum_calibration_pairs} pairs, independent",
        passed=not refusal,
        decisive=False,
        explanation=f"{judge.name} may not vote: it {refusal}." if refusal else says,
    )
    return Finding(check)


def _refusal(judge: Judge, calibration: Calibration | None, policy: GatePolicy, candidate: CandidateVersion) -> str:
    """Why a judge may not vote, as the end of a sentence; empty when it may."""
    shared = _shared_lessons(judge, candidate)
    if shared:
        return f"is not independent of the candidate, which learnt from or was chosen by {', '.join(shared)} too"
    if calibration is None:
        return "was not checked against human pairs"
    if calibration.num_pairs < policy.minimum_calibration_pairs:
        return f"was checked on {calibration.num_pairs} human pairs, fewer than {policy.minimum_calibration_pairs}"
    if not calibration.accuracy_low > policy.calibration_floor:
        return (
            f"agrees with people too little: the lower bound {calibration.accuracy_low:.3f} does not exceed"
            f" {policy.calibration_floor:g}"
        )
    return ""


def _shared_lessons(judge: Judge, candidate: CandidateVersion) -> list[str]:
    """What both the scorer and the candidate learnt from; the scorer itself counts as such, under whatever name."""
    return sorted(set(candidate.trained_on) & set(judge.lessons))


def _superiority(report: EvalReport, policy: GatePolicy, voting: Sequence[Comparison]) -> list[Finding]:
    """One line per vote, and the line that counts them."""
    required, minimum = policy.required_judges, policy.minimum_win_rate
    chances = max(1, len(voting) - required + 1)
    confidence = 1 - (1 - report.spec.confidence) / chances
    votes, in_favour, against = [], 0, 0
    for comparison in voting:
        low, high = _vote_bounds(comparison, confidence)
        in_favour += low > minimum
        against += high <= minimum
        votes.append(_vote(comparison, low, high=high, minimum=minimum))
    passed = in_favour >= required
    out_of_reach = len(voting) - against < required
    explanation = f"{in_favour} of {len(voting)} voting judges prefer the candidate; {required} are required."
    if not passed:
        explanation += (
            f" {against} speak against it." if out_of_reach else " The others are undecided: ask more prompts."
        )
    check = GateCheck(
        name="preferred_by_judges",
        measured=float(in_favour),
        required=f">= {required}",
        passed=passed,
        explanation=explanation,
    )
    return [*votes, Finding(check, "promote" if passed else "hold" if out_of_reach else "inconclusive")]


def _vote_bounds(comparison: Comparison, confidence: float) -> tuple[float, float]:
    """Bounds of the win rate at the confidence of a vote; counts that make no sense are an invalid report anyway."""
    counts = (comparison.wins, comparison.ties, comparison.losses)
    if min(counts) < 0 or sum(counts) == 0:
        return 0.0, 1.0
    return win_rate_interval(*counts, confidence=confidence)


def _vote(comparison: Comparison, low: float, *, high: float, minimum: float) -> Finding:
    passed = low > minimum
    says = "prefers" if passed else "speaks against" if high <= minimum else "is undecided about"
    check = GateCheck(
        name=f"win_rate:{comparison.scorer}",
        measured=low,
        required=f"> {minimum:g}",
        passed=passed,
        decisive=False,
        explanation=f"{comparison.scorer} {says} the candidate: {comparison.wins} wins, {comparison.ties} ties,"
        f" {comparison.losses} losses; win rate between {low:.3f} and {high:.3f}.",
    )
    return Finding(check)


# --- guards -------------------------------------------------------------------------------------------------------


def _guards(report: EvalReport, policy: GatePolicy, candidate: CandidateVersion) -> list[Finding]:
    """One decisive line per guard of the policy or of the report."""
    measured = {guard.name: guard for guard in report.spec.guards}
    names = sorted({*measured, *policy.guard_margins})
    return [
        _guard(
            name,
            margin=policy.guard_margins.get(name),
            guard=measured.get(name),
            comparison=_against_champion(report, name),
            candidate=candidate,
        )
        for name in names
    ]


def _guard(
    name: str,
    *,
    margin: float | None,
    guard: Judge | None,
    comparison: Comparison | None,
    candidate: CandidateVersion,
) -> Finding:
    fault = _guard_fault(name, margin=margin, guard=guard, comparison=comparison, candidate=candidate)
    if fault or margin is None or comparison is None:
        required = "a margin" if margin is None else f"> {-margin:g}"
        check = GateCheck(name=f"guard:{name}", measured=None, required=required, passed=False, explanation=fault)
        return Finding(check, "invalid")
    low, high = comparison.mean_difference_low, comparison.mean_difference_high
    passed, broken = low > -margin, high <= -margin
    says = "holds" if passed else "is broken" if broken else "is undecided: ask more prompts"
    check = GateCheck(
        name=f"guard:{name}",
        measured=low,
        required=f"> {-margin:g}",
        passed=passed,
        explanation=f"Guard {name} {says}; the change against the champion is between {low:.3g} and {high:.3g}, a drop"
        f" of {margin:g} is tolerated.",
    )
    return Finding(check, "promote" if passed else "hold" if broken else "inconclusive")


def _guard_fault(
    name: str, *, margin: float | None, guard: Judge | None, comparison: Comparison | None, candidate: CandidateVersion
) -> str:
    if margin is None:
        return f"Guard {name} was measured but the policy gives no margin for it. Add gate.guard_margins.{name}."
    if not (math.isfinite(margin) and margin >= 0):
        return f"Guard {name} has the margin {margin}. Give a number of at least 0."
    if guard is None or comparison is None:
        return f"Guard {name} is in the policy but was not measured. Add it to evaluation.guards."
    if not (math.isfinite(comparison.mean_difference_low) and math.isfinite(comparison.mean_difference_high)):
        return f"Guard {name} has a bound that is not finite."
    shared = _shared_lessons(guard, candidate)
    if shared:
        learnt = f"learnt from or was chosen by {', '.join(shared)} too"
        return f"Guard {name} is not independent of the candidate, which {learnt}."
    return ""


def _against_champion(report: EvalReport, scorer: str) -> Comparison | None:
    return next((c for c in report.comparisons if (c.scorer, c.against) == (scorer, "champion")), None)
