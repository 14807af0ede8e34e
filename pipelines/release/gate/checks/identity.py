"""Check that the evidence is the right one and complete. If one of these checks fails, the verdict is `invalid`."""

from alignment.contracts.evaluation import EvalReport
from pipelines.contracts.release import CheckKind, GateCheck
from pipelines.release.gate.checks.interface import Evidence, Finding, listed
from pipelines.release.gate.checks.score_table import measurement_problems


def already_champion(evidence: Evidence) -> Finding:
    """Return the only finding when the candidate has the champion's weights: there is nothing to decide."""
    version = evidence.candidate.version
    check = GateCheck(
        kind="differs_from_champion",
        measured=None,
        required="other weights than the champion",
        passed=False,
        family="evidence",
        explanation=f"Version {version} has the same weights as the champion.",
    )
    return Finding(check, "hold")


def _fact(
    kind: CheckKind, required: str, *, passed: bool, good: str, bad: str, measured: float | None = None
) -> Finding:
    """Return a precondition stated in words, with `good` or `bad` as its explanation."""
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
    """Return a precondition on a number: at least `least`."""
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
    """Check that the report is about this candidate, the current champion and the project's prompts."""
    return [_candidate(evidence), _champion(evidence), *_ungated_champion(evidence), *_prompts(evidence)]


def _ungated_champion(evidence: Evidence) -> list[Finding]:
    """Warn that the champion, which the candidate is compared with, was never judged."""
    if not evidence.ungated_champion:
        return []
    check = GateCheck(
        kind="ungated_champion",
        measured=None,
        required="a champion that the gate promoted",
        passed=False,
        decisive=False,
        family="evidence",
        note="warning",
        explanation=f"The champion is ungated: {evidence.ungated_champion}. A gain over it may be none over the base.",
    )
    return [Finding(check)]


def _candidate(evidence: Evidence) -> Finding:
    spec, candidate = evidence.report.spec, evidence.candidate
    reported = (spec.candidate.weights_digest, spec.candidate.kind, spec.base_digest)
    return _fact(
        "candidate_digest",
        "report is about this version",
        passed=reported == (candidate.weights_digest, candidate.kind, candidate.base_digest),
        good=f"The report is about the weights of version {candidate.version} on its base.",
        bad=f"The report is about candidate {spec.candidate.weights_digest[:12]} on base {spec.base_digest[:12]},"
        f" but version {candidate.version} is {candidate.weights_digest[:12]} on base {candidate.base_digest[:12]}."
        " Evaluate this version.",
    )


def _champion(evidence: Evidence) -> Finding:
    spec, digest = evidence.report.spec, evidence.champion_weights_digest
    is_base = evidence.champion_version is None
    incumbent = "the base model" if is_base else f"version {evidence.champion_version}"
    return _fact(
        "champion_digest",
        "report is against the current champion",
        passed=spec.champion.weights_digest == digest and (spec.champion.kind == "base") == is_base,
        good=f"The report compares with the current champion, {incumbent}.",
        bad=f"The report compares with {spec.champion.kind} {spec.champion.weights_digest[:12]}, but the champion"
        f" is {incumbent} ({digest[:12]}). Evaluate against it.",
    )


def _prompts(evidence: Evidence) -> list[Finding]:
    present, judged = evidence.prompts_digest, evidence.report.spec.prompts_digest
    if present is None:
        return []
    finding = _fact(
        "prompts_digest",
        "report is on the project's prompts",
        passed=present == judged,
        good="The report is about the prompts that the project names.",
        bad=f"The report is about prompts {judged[:12]}, but the project now names prompts {present[:12]}. Evaluate"
        " again.",
    )
    return [finding]


def soundness_checks(evidence: Evidence) -> list[Finding]:
    """Check that there are enough prompts, no scoring problems, no missing figures, and a score table that gives the
    report's figures."""
    report, policy = evidence.report, evidence.policy
    missing, problems, compared = measurement_problems(report), evidence.table_problems, _compared(report)
    return [
        enough(
            "prompts",
            report.independent_prompts,
            policy.minimum_prompts,
            good=f"{compared}.",
            bad=f"{compared}; the policy requires at least {policy.minimum_prompts}.",
        ),
        _fact(
            "scoring_problems",
            "none",
            measured=float(len(report.problems)),
            passed=not report.problems,
            good="Sampling and scoring reported no problem.",
            bad=f"Sampling or scoring had problems: {listed(report.problems)}",
        ),
        _fact(
            "measurements",
            "complete and finite",
            measured=float(len(missing)),
            passed=not missing,
            good="Every judge and guard was measured against the champion and the base on every prompt.",
            bad=f"The report is incomplete: {listed(missing)}",
        ),
        _fact(
            "score_table",
            "gives the same numbers",
            measured=float(len(problems)),
            passed=not problems,
            good="The report's numbers follow from the score table.",
            bad=f"The score table and the report disagree: {listed(problems)}",
        ),
    ]


def _compared(report: EvalReport) -> str:
    """Return the number of prompts in words, and what it counts where some are nearly the same."""
    if report.num_groups is None:
        return f"{report.num_prompts} prompts were compared"
    return (
        f"{report.num_prompts} prompts were compared, which count as {report.num_groups}: near-duplicates count as one"
    )
