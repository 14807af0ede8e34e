"""Checks are grouped by family, each with a short result."""

from typing import Any

import pytest

from pipelines.contracts.release import CheckKind, GateCheck
from pipelines.release.pages.checks import check_groups, check_row


def check(kind: CheckKind, subject: str | None = None, **fields: Any) -> GateCheck:
    given = {
        "measured": 0.5,
        "relation": ">",
        "bound": 0,
        "passed": True,
        "family": "guards",
        "explanation": "so",
        **fields,
    }
    return GateCheck(kind=kind, subject=subject, **given)


def only_group(decision: Any, *checks: GateCheck) -> tuple[str, str]:
    (group,) = check_groups(decision.model_copy(update={"checks": checks}))
    return group.outcome, group.colour


def test_families_come_in_the_order_of_questions_and_hold_every_check(good_decision: Any) -> None:
    groups = check_groups(good_decision)
    assert [group.name for group in groups] == ["votes", "guards", "slices", "detectors", "power", "evidence"]
    assert sum(len(group.rows) for group in groups) == len(good_decision.checks)


def test_a_name_is_for_people() -> None:
    row = check_row(check("rank_correlation", "a", against="b", measured=0.123456, note="warning", passed=False))
    assert (row.name, row.measured, row.mark, row.colour) == ("rank correlation: a, b", "0.1235", "warning", "plain")
    row = check_row(check("preferred_by_judges", passed=False))
    assert (row.name, row.mark, row.colour) == ("preferred by judges", "failed", "no")
    assert check_row(check("guard", "match", limit="floor")).name == "guard: match, floor"


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ([{}, {}], ("2 of 2 passed", "yes")),
        ([{}, {"passed": False}, {"passed": False, "note": "undecided"}], ("1 of 3 failed", "no")),
        ([{}, {"passed": False, "note": "undecided"}], ("1 of 2 undecided", "plain")),
        ([{}, {"passed": False, "note": "warning", "decisive": False}], ("1 warning", "plain")),
        ([{"decisive": False}, {"decisive": False, "measured": None}], ("1 measured, no warning", "yes")),
        ([{"decisive": False, "note": "unmeasured"}], ("nothing measured", "plain")),
    ],
)
def test_a_family_shows_its_worst_result(
    good_decision: Any, fields: list[dict[str, Any]], outcome: tuple[str, str]
) -> None:
    checks = [check("guard", str(number), **own) for number, own in enumerate(fields)]
    assert only_group(good_decision, *checks) == outcome


@pytest.mark.parametrize(
    ("in_favour", "fields", "outcome"),
    [
        (2.0, {"passed": True}, ("2 of 2 judges prefer it", "yes")),
        (1.0, {"passed": False, "note": "undecided"}, ("1 of 2 judges prefer it", "plain")),
        (0.0, {"passed": False}, ("0 of 2 judges prefer it", "no")),
    ],
)
def test_votes_say_how_many_judges_prefer_it(
    good_decision: Any, in_favour: float, fields: dict[str, Any], outcome: tuple[str, str]
) -> None:
    judges = [check("win_rate", name, family="votes", decisive=False) for name in "ab"]
    votes = check("preferred_by_judges", measured=in_favour, family="votes", **fields)
    assert only_group(good_decision, *judges, votes) == outcome
