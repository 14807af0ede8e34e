"""Does a person have to agree, is an answer good enough, and what is that person shown? No I/O.

Four eyes: whoever triggered the run or trained the candidate may not approve it. The question is not put to them, and
their answer does not count, however it was given.
"""

import html
import re
from collections.abc import Sequence

from pipelines.contracts.release import Approval, GateCheck, GateDecision
from pipelines.project.approval import ApprovalSection, Approver

_WITHOUT_DISTANCE = ("not below", "within")
"""Relations whose distance from the bound says too little: a person is asked."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>])")


def needed(policy: ApprovalSection, decision: GateDecision) -> str:
    """Why a person has to agree to this decision, as a sentence; empty when nobody has to."""
    if policy.mode == "none" or decision.verdict != "promote" or decision.mode != "enforce":
        return ""
    if policy.mode == "required":
        return "The project asks a person before every promotion."
    close = [reason for name, margin in sorted(policy.borderline.items()) for reason in _close(decision, name, margin)]
    close += [f"{check.name} is a warning" for check in decision.checks if check.note == "warning"]
    return f"It was close: {'; '.join(close)}." if close else ""


def _close(decision: GateDecision, name: str, margin: float) -> list[str]:
    """The checks of that name or kind that lie within `margin` of their bound; doubt counts as close."""
    checks = [check for check in decision.checks if name in (check.name, check.kind)]
    if not checks:
        return [f"nothing is known of {name}"]
    return [reason for check in checks if (reason := _closeness(check, margin))]


def _closeness(check: GateCheck, margin: float) -> str:
    if check.measured is None or check.bound is None or check.relation in _WITHOUT_DISTANCE:
        return f"{check.name} has no number"
    if abs(check.measured - check.bound) > margin:
        return ""
    return f"{check.name} is {check.measured:.4g}, required {check.required}, within {margin:g}"


def refusal(policy: ApprovalSection, decision: GateDecision, approval: Approval | None) -> str:
    """Why this answer does not let the decision through, as a sentence; empty when it does."""
    if approval is None:
        return f"nobody has approved it. It needs one of {_names(policy.approvers)}"
    if approval.decision_digest != decision.digest:
        return "the approval is about another decision"
    if approval.answer == "timeout":
        return f"nobody answered within {policy.timeout_hours:g} hours"
    who = approval.by or approval.by_id
    if approval.answer == "reject":
        return f"{who} rejected it"
    approver = _approver(policy, approval)
    if approver is None:
        return f"{who} may not approve. It needs one of {_names(policy.approvers)}"
    if any(approver.is_called(name) or name.casefold() == who.casefold() for name in approval.asked_by):
        return f"{who} triggered this run or trained the candidate, so somebody else has to agree"
    return ""


def _approver(policy: ApprovalSection, approval: Approval) -> Approver | None:
    """Who answered, by Airflow's id alone where there is one: a user name could be chosen to look like another's."""
    if approval.by_id:
        return next((person for person in policy.approvers if person.id == approval.by_id), None)
    return next((person for person in policy.approvers if person.is_called(approval.by)), None)


def askable(policy: ApprovalSection, asked_by: Sequence[str]) -> list[Approver]:
    """Who can be asked; ValueError when only those are left who may not approve their own."""
    others = [person for person in policy.approvers if not any(person.is_called(name) for name in asked_by)]
    if not others:
        raise ValueError(
            f"Nobody may approve: {', '.join(asked_by)} triggered the run or trained the candidate, and approvers are"
            f" {_names(policy.approvers)}. Name somebody else under [approval] approvers."
        )
    return others


def _names(people: Sequence[Approver]) -> str:
    return ", ".join(person.name or person.id for person in people)


# --- what the person is shown ---------------------------------------------------------------------------------------


def subject(decision: GateDecision) -> str:
    """One line."""
    return f"Make version {decision.candidate.version} of {decision.candidate.model} the champion?"


def body(decision: GateDecision, reason: str, *, asked_by: Sequence[str] = ()) -> str:
    """Markdown with the verdict, every check and the way to the evidence. Whatever comes from outside is escaped."""
    champion = "the base model" if decision.champion_version is None else f"version {decision.champion_version}"
    lines = [
        f"The gate says **{decision.verdict}**: version {decision.candidate.version} instead of {champion}.",
        escaped(reason),
        "",
        f"- Report: {_address(decision.report_uri)}",
        f"- Contact sheet: {_address(f'{decision.evaluation_uri}/contact_sheet.png')}",
        f"- In MLflow: the run with tag `gate.candidate_version` = {decision.candidate.version}, artifacts `gate/`",
        f"- Weights: `{decision.candidate.weights_digest}`",
        f"- Learnt from: {escaped(', '.join(decision.candidate.trained_on)) or 'nothing that is named'}",
        f"- May not approve: {escaped(', '.join(asked_by)) or 'nobody is known to have trained or triggered it'}",
        "",
        "| check | measured | required | | |",
        "|---|---|---|---|---|",
        *(_row(check) for check in decision.checks),
    ]
    return "\n".join(lines)


def _row(check: GateCheck) -> str:
    measured = "" if check.measured is None else f"{check.measured:.4g}"
    passed = "passed" if check.passed else "**failed**" if check.decisive else "failed, does not decide"
    cells = (escaped(check.name), measured, escaped(check.required), passed, escaped(check.explanation))
    return f"| {' | '.join(cells)} |"


def _address(uri: str) -> str:
    """A link where a browser can follow it, else text to copy."""
    if uri.startswith(("https://", "http://")) and not re.search(r"[\s<>()]", uri):
        return f"<{uri}>"
    return f"`{uri.replace('`', '')}`"


def escaped(text: str) -> str:
    """Text that neither Markdown nor HTML reads as more than text; line breaks become spaces."""
    return _MARKDOWN.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
