"""Group the checks of a decision by family, with a short result for each family."""

from dataclasses import dataclass

from pipelines.contracts.release import GateCheck, GateDecision
from pipelines.release.pages.wording import number

FAMILIES = {
    "votes": "Do independent judges prefer it?",
    "guards": "Do all guards hold?",
    "slices": "Did any kind of prompt get worse?",
    "detectors": "Was a judge hacked?",
    "power": "Are there enough prompts?",
    "evidence": "Is the evidence sound?",
    "": "Other",
}
"""Families of checks in reading order, with their titles."""

MARKS = {"failed": "no", "passed": "yes"}
"""Mark to its colour; any other mark is neutral."""


@dataclass(frozen=True)
class CheckRow:
    """One line of the table of checks."""

    name: str
    measured: str
    required: str
    mark: str
    """One word: passed, failed, undecided, unmeasured or warning."""
    colour: str
    explanation: str


@dataclass(frozen=True)
class _CheckGroup:
    """One family of checks."""

    name: str
    title: str
    rows: tuple[CheckRow, ...]
    outcome: str
    """The family's result in a few words."""
    colour: str


def check_groups(decision: GateDecision) -> list[_CheckGroup]:
    """Return the families that have checks."""
    found = [(name, [c for c in decision.checks if c.family == name]) for name in FAMILIES]
    return [_group(name, checks) for name, checks in found if checks]


def _group(name: str, checks: list[GateCheck]) -> _CheckGroup:
    rows = tuple(check_row(check) for check in checks)
    outcome, colour = _outcome(checks)
    return _CheckGroup(name or "other", FAMILIES[name], rows, outcome, colour)


def _outcome(checks: list[GateCheck]) -> tuple[str, str]:
    """Return the worst result of a family and its colour, over the decisive checks, else over the informative ones.

    For votes, the number of judges that prefer the candidate.
    """
    votes = next((check for check in checks if check.kind == "preferred_by_judges"), None)
    if votes is not None:
        judges = sum(check.kind == "win_rate" for check in checks)
        colour = "yes" if votes.passed else "plain" if votes.note == "undecided" else "no"
        return f"{number(votes.measured)} of {judges} judges prefer it", colour
    deciding = [check for check in checks if check.decisive and check.note != "unmeasured"]
    undecided = sum(check.note == "undecided" for check in deciding)
    failed = sum(not check.passed for check in deciding) - undecided
    warnings = sum(check.note == "warning" for check in checks)
    if failed:
        return f"{failed} of {len(deciding)} failed", "no"
    if undecided:
        return f"{undecided} of {len(deciding)} undecided", "plain"
    if warnings:
        return f"{warnings} warning{'s' * (warnings > 1)}", "plain"
    if deciding:
        return f"{len(deciding)} of {len(deciding)} passed", "yes"
    measured = sum(check.note != "unmeasured" and check.measured is not None for check in checks)
    return (f"{measured} measured, no warning", "yes") if measured else ("nothing measured", "plain")


def check_row(check: GateCheck) -> CheckRow:
    """Return the table row of a check, with a readable name and number."""
    about = ", ".join(check.about)
    name = check.kind.replace("_", " ") + (f": {about}" if about else "")
    mark = check.note or ("passed" if check.passed else "failed")
    return CheckRow(name, number(check.measured), check.required, mark, MARKS.get(mark, "plain"), check.explanation)
