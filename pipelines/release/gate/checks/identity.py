"""Is this the right evidence, and is it whole? Each of these facts is needed; without one the verdict is invalid."""

from pipelines.contracts.release import CheckKind, GateCheck
from pipelines.release.gate.checks.interface import Evidence, Finding, listed
from pipelines.release.gate.checks.score_table import measurement_problems


def already_champion(evidence: Evidence) -> Finding:
    """The only finding on weights that are the champion's: there is nothing to decide."""
    version = evidence.candidate.version
    check = GateCheck(
        kind="differs_from_champion",
        measured=None,
        required="other weights than the champion",
        passed=False,
        family="evidence",
        explanation=f"Version {version} is the champion already: the weights are the same.",
    )
    return Finding(check, "hold")


def fact(
    kind: CheckKind, required: str, *, passed: bool, good: str, bad: str, measured: float | None = None
) -> Finding:
    """A precondition in words."""
    return _precondition(
        GateCheck(
            kind=kind,
            measured=measured,
            required=required,
            passed=passed,
            family="evidence",
            explanation=good if passed else bad,
        )
    )


def enough(kind: CheckKind, measured: int, least: int, *, good: str, bad: str) -> Finding:
    """A number that must not be smaller than the policy's."""
    passed = measured >= least
    return _precondition(
        GateCheck(
            kind=kind,
            relation=">=",
            bound=least,
            measured=measured,
            passed=passed,
            family="evidence",
            explanation=good if passed else bad,
        )
    )


def _precondition(check: GateCheck) -> Finding:
    return Finding(check, "promote" if check.passed else "invalid")


def identity_checks(evidence: Evidence) -> list[Finding]:
    """Candidate, champion and prompts of the report are those at hand."""
    return [_candidate(evidence), _champion(evidence), *_prompts(evidence)]


def _candidate(evidence: Evidence) -> Finding:
    spec, candidate = evidence.report.spec, evidence.candidate
    reported = (spec.candidate.weights_digest, spec.candidate.kind, spec.base_digest)
    return fact(
        "candidate_digest",
        "report is about this version",
        passed=reported == (candidate.weights_digest, candidate.kind, candidate.base_digest),
        good=f"The report is about the weights of version {candidate.version} on its base.",
        bad=f"The report is about candidate {spec.candidate.weights_digest[:12]} on base {spec.base_digest[:12]},"
        f" version {candidate.version} is {candidate.weights_digest[:12]} on {candidate.base_digest[:12]}."
        " Evaluate this version.",
    )


def _champion(evidence: Evidence) -> Finding:
    spec, digest = evidence.report.spec, evidence.champion_weights_digest
    is_base = evidence.champion_version is None
    incumbent = "the base model" if is_base else f"version {evidence.champion_version}"
    return fact(
        "champion_digest",
        "report is against the present champion",
        passed=spec.champion.weights_digest == digest and (spec.champion.kind == "base") == is_base,
        good=f"The report compares with the present champion, {incumbent}.",
        bad=f"The report compares with {spec.champion.kind} {spec.champion.weights_digest[:12]}, but the champion"
        f" is {incumbent} ({digest[:12]}). Evaluate against it.",
    )


def _prompts(evidence: Evidence) -> list[Finding]:
    present, judged = evidence.prompts_digest, evidence.report.spec.prompts_digest
    if present is None:
        return []
    finding = fact(
        "prompts_digest",
        "report is on the project's prompts",
        passed=present == judged,
        good="The report is on the prompts that the project names.",
        bad=f"The report is on prompts {judged[:12]}, the project now names {present[:12]}. Evaluate again.",
    )
    return [finding]


def soundness_checks(evidence: Evidence) -> list[Finding]:
    """Enough prompts, no scoring problems, nothing missing, and a table that tells the same story."""
    report, policy = evidence.report, evidence.policy
    missing, problems = measurement_problems(report), evidence.table_problems
    return [
        enough(
            "prompts",
            report.num_prompts,
            policy.minimum_prompts,
            good=f"{report.num_prompts} prompts were compared.",
            bad=f"{report.num_prompts} prompts are fewer than the {policy.minimum_prompts} that the policy asks for.",
        ),
        fact(
            "scoring_problems",
            "none",
            measured=float(len(report.problems)),
            passed=not report.problems,
            good="Sampling and scoring reported no problem.",
            bad=f"Sampling or scoring had problems: {listed(report.problems)}",
        ),
        fact(
            "measurements",
            "complete and finite",
            measured=float(len(missing)),
            passed=not missing,
            good="Every judge and guard was measured against the champion and the base on every prompt.",
            bad=f"The report is not whole: {listed(missing)}",
        ),
        fact(
            "score_table",
            "gives the same numbers",
            measured=float(len(problems)),
            passed=not problems,
            good="The score table gives the numbers of the report again.",
            bad=f"The score table and the report disagree: {listed(problems)}",
        ),
    ]
