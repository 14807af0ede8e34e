"""Human approval: decide when it is needed, check the answer, and render the question. No I/O.

Four-eyes principle: whoever triggered the run or trained the candidate may not approve it. They are not asked, and
their answer does not count, however it is given.
"""

import html
import re
from collections.abc import Sequence

from pipelines.contracts.release import Approval, GateCheck, GateDecision, LedgerEntry
from pipelines.project.approval import ApprovalSection, Approver, same_name
from pipelines.project.gate import GatePolicy
from pipelines.release.champion.ledger import describe_move

_WITHOUT_DISTANCE = ("not below", "within")
"""Relations for which the distance from the bound means little: they count as close, so a person is asked."""
_UNLINKABLE = re.compile(r"[\s<>()]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>])")


def needed(
    policy: ApprovalSection, decision: GateDecision, rollback: LedgerEntry | None = None, *, gate: GatePolicy
) -> str:
    """Return the reason why a person must approve this decision, as a sentence; empty when no approval is needed.

    `rollback` is the rollback that left the candidate's weights, if there was one. `gate` is the project's policy,
    which may need a person even where `policy` has no approvers: then nobody can approve.
    """
    if decision.verdict != "promote" or decision.mode != "enforce":
        return ""
    if gate.needs_person:
        return f"The gate's preset {gate.preset!r} promotes only what a person approves."
    if policy.mode == "none":
        return ""
    if rollback is not None:
        return f"A person left these weights, or weights that they contain: {describe_move(rollback)}."
    if policy.mode == "required":
        return "The project requires approval by a person for every promotion."
    close = [reason for name, margin in sorted(policy.borderline.items()) for reason in _close(decision, name, margin)]
    close += [f"{check.name} is a warning" for check in decision.checks if check.note == "warning"]
    return f"The decision is borderline: {'; '.join(close)}." if close else ""


def _close(decision: GateDecision, name: str, margin: float) -> list[str]:
    """Describe the checks of that name or kind within `margin` of their bound; an unknown distance counts as close."""
    checks = [check for check in decision.checks if name in (check.name, check.kind)]
    if not checks:
        return [f"the decision has no check {name}"]
    return [reason for check in checks if (reason := _closeness(check, margin))]


def _closeness(check: GateCheck, margin: float) -> str:
    if check.measured is None or check.bound is None or check.relation in _WITHOUT_DISTANCE:
        return f"{check.name} has no distance from a bound"
    if abs(check.measured - check.bound) > margin:
        return ""
    return f"{check.name} is {check.measured:.4g}, required {check.required}, within {margin:g}"


def refusal(policy: ApprovalSection, decision: GateDecision, approval: Approval | None) -> str:
    """Return the reason why this answer does not approve the decision, as the end of a sentence; empty when it does."""
    if approval is None:
        return f"it is not approved yet. It needs the approval of one of: {_names(policy.approvers)}"
    if approval.decision_digest != decision.digest:
        return "the approval is for another decision"
    if approval.answer == "timeout":
        return f"no approver answered within {policy.timeout_hours:g} hours"
    who = approval.by or approval.by_id
    if approval.answer == "reject":
        return f"{who} rejected it"
    approver = _approver(policy, approval)
    if approver is None:
        return f"{who} may not approve: the approvers are {_names(policy.approvers)}"
    if any(approver.may_be(name) or same_name(name, who) for name in approval.asked_by):
        return f"{who} triggered this run or trained the candidate, so another approver has to approve it"
    return ""


def _approver(policy: ApprovalSection, approval: Approval) -> Approver | None:
    """Find the approver who answered. If Airflow gave an id, only the id counts: a user name can imitate another's."""
    if approval.by_id:
        return next((person for person in policy.approvers if person.id == approval.by_id), None)
    return next((person for person in policy.approvers if person.is_called(approval.by)), None)


def askable(policy: ApprovalSection, asked_by: Sequence[str]) -> list[Approver]:
    """Return the approvers who can be asked; ValueError when every approver is in `asked_by`."""
    others = [person for person in policy.approvers if not any(person.may_be(name) for name in asked_by)]
    if not others:
        raise ValueError(
            f"No approver is left: {', '.join(asked_by)} triggered the run or trained the candidate, and the approvers"
            f" are {_names(policy.approvers)}. Add another person to `approvers` in [approval]."
        )
    return others


def _names(people: Sequence[Approver]) -> str:
    return ", ".join(person.name or person.id for person in people) or "nobody; [approval] has no approvers"


# --- the question ---------------------------------------------------------------------------------------------------


def subject(decision: GateDecision) -> str:
    """Return the question in one line."""
    return f"Make version {decision.candidate.version} of {decision.candidate.model} the champion?"


def body(
    decision: GateDecision, reason: str, *, asked_by: Sequence[str] = (), report_page: str = "", sheet_page: str = ""
) -> str:
    """Return Markdown with the verdict, every check and links to the evidence. All external text is escaped.

    `report_page` and `sheet_page` are addresses for a browser; without them the addresses in the store are shown.
    """
    champion = "the base model" if decision.champion_version is None else f"version {decision.champion_version}"
    lines = [
        f"Verdict of the gate: **{decision.verdict}**. Version {decision.candidate.version} would replace {champion}.",
        _escaped(reason),
        "",
        f"- {_link('Report', report_page, decision.report_uri)}",
        f"- {_link('Images side by side', sheet_page, f'{decision.evaluation_uri}/contact_sheet.png')}",
        f"- Weights: `{decision.candidate.weights_digest}`",
        f"- Trained on: {_escaped(', '.join(decision.candidate.trained_on)) or 'not recorded'}",
        f"- May not approve: {_escaped(', '.join(asked_by)) or 'no one is recorded as having trained or triggered it'}",
        "",
        "| check | measured | required | result | explanation |",
        "|---|---|---|---|---|",
        *(_row(check) for check in decision.checks),
    ]
    return "\n".join(lines)


def _row(check: GateCheck) -> str:
    measured = "" if check.measured is None else f"{check.measured:.4g}"
    passed = "passed" if check.passed else "**failed**" if check.decisive else "failed, not decisive"
    cells = (_escaped(check.name), measured, _escaped(check.required), passed, _escaped(check.explanation))
    return f"| {' | '.join(cells)} |"


def _link(title: str, page: str, uri: str) -> str:
    """Return a link to the page for a browser, else the title with the address in the store."""
    return f"[{title}]({page})" if page and not _UNLINKABLE.search(page) else f"{title}: {_address(uri)}"


def _address(uri: str) -> str:
    """Return a link if a browser can open it, else text to copy."""
    if uri.startswith(("https://", "http://")) and not _UNLINKABLE.search(uri):
        return f"<{uri}>"
    return f"`{uri.replace('`', '')}`"


def _escaped(text: str) -> str:
    """Escape text for Markdown and HTML; line breaks become spaces."""
    return _MARKDOWN.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
