"""Who has to be asked, whose answer counts, and what is put before them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pipelines.contracts.release import Approval, CandidateVersion, GateCheck, GateDecision, Relation
from pipelines.project.approval import ApprovalSection
from pipelines.project.gate import GatePolicy
from pipelines.release.promotion import approval

WIN_RATE = GateCheck(
    kind="win_rate", subject="taste", relation=">", bound=0.5, measured=0.53, passed=True, explanation="clear"
)
GUARD = GateCheck(
    kind="guard", subject="safety", relation=">", bound=-0.5, measured=-0.1, passed=True, explanation="holds"
)


def policy(mode: str = "required", **changes: Any) -> ApprovalSection:
    facts: dict[str, Any] = {"approvers": ["ada", {"id": "7", "name": "bob"}]}
    return ApprovalSection(mode=mode, **{**facts, **changes})


def decision(*checks: GateCheck, **changes: Any) -> GateDecision:
    candidate = CandidateVersion(
        model="shapes",
        version=4,
        kind="lora",
        weights_digest="a" * 64,
        weights_uri="file:///store/jobs/1",
        spec_digest="5" * 64,
        base_digest="b" * 64,
        snapshot_digest="c" * 64,
        trained_on=("<script>alert(1)</script>",),
        run_id="run",
    )
    facts: dict[str, Any] = {
        "verdict": "promote",
        "mode": "enforce",
        "checks": checks or (WIN_RATE, GUARD),
        "reasons": (),
        "candidate": candidate,
        "champion_version": 3,
        "champion_weights_digest": "d" * 64,
        "report_digest": "e" * 64,
        "evaluation_uri": "s3://bucket/evaluations/1",
        "report_uri": "https://store/reports/1.html",
        "scores_digest": "f" * 64,
        "policy_digest": "0" * 64,
    }
    return GateDecision(**{**facts, **changes})


def answered(answer: str = "approve", **changes: Any) -> Approval:
    facts: dict[str, Any] = {"by": "bob", "by_id": "7", "at": datetime.now(UTC)}
    return Approval(decision_digest=decision().digest, answer=answer, **{**facts, **changes})  # type: ignore[arg-type]


# --- is anybody asked? ----------------------------------------------------------------------------------------------


def test_approval_is_needed_only_by_policy_and_when_the_alias_would_move() -> None:
    assert approval.needed(ApprovalSection(), decision(), gate=GatePolicy()) == ""
    assert "for every promotion" in approval.needed(policy(), decision(), gate=GatePolicy())
    assert approval.needed(policy(), decision(verdict="hold"), gate=GatePolicy()) == ""
    assert approval.needed(policy(), decision(mode="dry_run"), gate=GatePolicy()) == ""


def test_the_preset_small_always_needs_a_person_whatever_the_table_approval_says() -> None:
    small = GatePolicy.model_validate({"preset": "small"})
    for table in (ApprovalSection(), policy("borderline", borderline={"win_rate": 0.001}), policy()):
        assert "promotes only what a person approves" in approval.needed(table, decision(), gate=small)
    assert approval.needed(ApprovalSection(), decision(verdict="hold"), gate=small) == ""
    assert "nobody; [approval] has no approvers" in approval.refusal(ApprovalSection(), decision(), None)
    assert "may not approve" in approval.refusal(ApprovalSection(), decision(), answered())


@pytest.mark.parametrize(
    ("margins", "reason"),
    [
        ({"win_rate": 0.02}, ""),
        ({"win_rate": 0.031}, "win_rate:taste is 0.53, required > 0.5, within 0.031"),
        ({"guard:safety": 0.39}, ""),
        ({"guard:safety": 0.41}, "guard:safety is -0.1, required > -0.5"),
        ({"guard:other": 0.1}, "the decision has no check guard:other"),
        ({"win_rate": 0.02, "guard": 1.0}, "guard:safety"),
    ],
)
def test_closeness_is_the_distance_from_the_bound_and_unknown_counts_as_close(
    margins: dict[str, float], reason: str
) -> None:
    text = approval.needed(policy("borderline", borderline=margins), decision(), gate=GatePolicy())
    assert text == "" if not reason else reason in text


@pytest.mark.parametrize(
    ("measured", "relation", "bound", "close"),
    [
        (0.61, ">", 0.6, True),
        (0.7, ">", 0.6, False),
        (0.012, "<=", 0.0125, True),
        (0.49, "<=", 0.5, True),
        (0.4, "<=", 0.5, False),
        (0.4, "not clearly >", 0.8, False),
        (0.9, "not below", 0.35, True),
        (0.0, "within", 0.1, True),
        (None, ">", 0.5, True),
        (0.9, None, None, True),
    ],
)
def test_close_is_measured_from_the_bound_of_the_check_whatever_its_text(
    measured: float | None, relation: Relation | None, bound: float | None, close: bool
) -> None:
    changes = {"measured": measured, "relation": relation, "bound": bound, "required": "> 0.61"}
    check = WIN_RATE.model_copy(update=changes)
    text = approval.needed(policy("borderline", borderline={"win_rate": 0.02}), decision(check), gate=GatePolicy())
    assert bool(text) is close


def test_a_warning_of_the_gate_is_a_borderline_case() -> None:
    warning = GateCheck(
        kind="lone_judge",
        subject="taste",
        relation="<=",
        bound=0.5,
        measured=0.9,
        passed=False,
        decisive=False,
        note="warning",
        explanation="gains alone",
    )
    asking = policy("borderline", borderline={"win_rate": 0.001})
    assert approval.needed(asking, decision(), gate=GatePolicy()) == ""
    assert (
        approval.needed(asking, decision(WIN_RATE, warning), gate=GatePolicy())
        == "The decision is borderline: lone_judge:taste is a warning."
    )


# --- does the answer count? -----------------------------------------------------------------------------------------


def test_an_approver_who_had_no_part_in_it_may_approve() -> None:
    assert approval.refusal(policy(), decision(), answered(asked_by=("ada",))) == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "it is not approved yet. It needs the approval of one of: ada, bob"),
        (answered("reject"), "bob rejected it"),
        (answered("timeout", by="", by_id=""), "no approver answered within 72 hours"),
        (answered(by="eve", by_id="eve"), "eve may not approve"),
        (answered(by="bob", by_id="8"), "bob may not approve"),
        (answered(by="7", by_id="eve"), "7 may not approve"),
        (answered(asked_by=("bob",)), "bob triggered this run or trained the candidate"),
        (answered(asked_by=("BOB",)), "another approver has to approve it"),
        (answered(by="robert", asked_by=("7",)), "robert triggered this run"),
        (answered().model_copy(update={"decision_digest": "9" * 64}), "for another decision"),
    ],
)
def test_every_other_answer_is_refused_with_its_reason(answer: Approval | None, reason: str) -> None:
    assert reason in approval.refusal(policy(), decision(), answer)


def test_at_a_shell_the_user_name_identifies_the_approver() -> None:
    assert approval.refusal(policy(), decision(), answered(by="bob", by_id="")) == ""
    assert "eve may not approve" in approval.refusal(policy(), decision(), answered(by="eve", by_id=""))


def test_people_who_may_not_approve_are_not_asked() -> None:
    assert [person.id for person in approval.askable(policy(), [])] == ["ada", "7"]
    assert [person.id for person in approval.askable(policy(), ["Bob"])] == ["ada"]
    with pytest.raises(ValueError, match=r"No approver is left: bob, ada .*Add another person"):
        approval.askable(policy(), ["bob", "ada"])


# --- what is shown --------------------------------------------------------------------------------------------------


def test_the_question_names_the_version_and_links_to_the_evidence() -> None:
    made = decision()
    assert approval.subject(made) == "Make version 4 of shapes the champion?"
    text = approval.body(made, "It was close.", asked_by=("ada",))
    assert "**promote**. Version 4 would replace version 3" in text
    assert "<https://store/reports/1.html>" in text
    assert "`s3://bucket/evaluations/1/contact_sheet.png`" in text
    shown = approval.body(made, "It was close.", report_page="http://m/#/report", sheet_page="http://m/#/sheet")
    assert "- [Report](http://m/#/report)\n- [Images side by side](http://m/#/sheet)" in shown
    assert "[Report]" not in approval.body(made, "It was close.", report_page="http://m/) [x](javascript:1")
    assert "May not approve: ada" in text
    assert "| win\\_rate:taste | 0.53 | &gt; 0\\.5 | passed | clear |" in text


def test_nothing_from_outside_is_read_as_markup() -> None:
    nasty = "a | b\n# [x](javascript:1) <img src=x> `code` *bold*"
    check = WIN_RATE.model_copy(update={"explanation": nasty})
    text = approval.body(decision(check, report_uri="https://x/(javascript)"), nasty)
    assert "<script" not in text
    assert "<img" not in text
    row = next(line for line in text.splitlines() if line.startswith("| win"))
    assert row.replace("\\|", "").count("|") == 6, "a cell may not end early"
    assert "\\[x\\]\\(javascript:1\\)" in row
    assert "`https://x/(javascript)`" in text, "an address that could break out of a link stays text"
