"""The checks of a decision, family by family, and a line that sums each family up."""

from dataclasses import dataclass

from pipelines.contracts.release import GateCheck, GateDecision
from pipelines.release.pages.wording import number

FAMILIES = {
    "votes": "Do independent judges prefer it?",
    "guards": "Is it no worse where it counts?",
    "slices": "Did any kind of prompt get worse?",
    "detectors": "Was a judge hacked?",
    "power": "Were there prompts enough?",
    "evidence": "Is the evidence sound?",
    "": "Other",
}
"""Families of checks in the order in which a person asks them."""

MARKS = {"failed": "no", "passed": "yes"}
"""Mark to its colour; any other word is neither good nor bad."""


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
class CheckGroup:
    """One family."""

    name: str
    title: str
    rows: tuple[CheckRow, ...]
    says: str
    """How the family came out, in a few words."""
    colour: str


def check_groups(decision: GateDecision) -> list[CheckGroup]:
    """The families that have checks."""
    found = [(name, [c for c in decision.checks if c.family == name]) for name in FAMILIES]
    return [_group(name, checks) for name, checks in found if checks]


def _group(name: str, checks: list[GateCheck]) -> CheckGroup:
    rows = tuple(check_row(check) for check in checks)
    says, colour = _outcome(checks)
    return CheckGroup(name or "other", FAMILIES[name], rows, says, colour)


def _outcome(checks: list[GateCheck]) -> tuple[str, str]:
    """The worst that a family says, counted over the checks that decide, else over those that are watched.

    Of votes, how many judges gave theirs.
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
        return f"{len(deciding)} of {len(deciding)} hold", "yes"
    measured = sum(check.note != "unmeasured" and check.measured is not None for check in checks)
    return (f"{measured} watched, no sign", "yes") if measured else ("nothing measured", "plain")


def check_row(check: GateCheck) -> CheckRow:
    """A check with readable name and number."""
    about = ", ".join(check.about)
    name = check.kind.replace("_", " ") + (f": {about}" if about else "")
    mark = check.note or ("passed" if check.passed else "failed")
    return CheckRow(name, number(check.measured), check.required, mark, MARKS.get(mark, "plain"), check.explanation)
