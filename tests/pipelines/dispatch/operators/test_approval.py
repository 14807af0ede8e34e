"""The approval task asks only allowed approvers, only when approval is required, and records who answered."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from pipelines.contracts.release import Approval, CandidateVersion, GateDecision
from pipelines.dispatch.operators.approval import PromotionApproval, approval_run

DECISION = GateDecision(
    verdict="promote",
    mode="enforce",
    checks=(),
    reasons=(),
    candidate=CandidateVersion(
        model="shapes",
        version=4,
        kind="lora",
        weights_digest="a" * 64,
        weights_uri="file:///store/jobs/1",
        spec_digest="5" * 64,
        base_digest="b" * 64,
        snapshot_digest="c" * 64,
        trained_on=(),
        run_id="run",
    ),
    champion_version=None,
    champion_weights_digest="b" * 64,
    report_digest="e" * 64,
    evaluation_uri="file:///store/evaluations/1",
    report_uri="file:///store/reports/1.html",
    scores_digest="f" * 64,
    policy_digest="0" * 64,
)
AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


def question(path: str, decision: dict[str, Any], *, asked_by: list[str]) -> dict[str, Any] | None:
    """Replace champion_stages.approval_question."""
    if path == "no approval required":
        return None
    assert decision["verdict"] == "promote"
    return {
        "subject": "Sure?",
        "body": "{{ 7 * 6 }} **bold**",
        "approvers": [{"id": "7", "name": "bob"}],
        "asked_by": asked_by,
        "decision_digest": DECISION.digest,
    }


def operator(path: str = "projects/shapes.toml", **changes: Any) -> PromotionApproval:
    return PromotionApproval(
        task_id="approve",
        project_path=path,
        decision=DECISION.model_dump(mode="json"),
        timeout_hours=2,
        question_builder=f"{__name__}:question",
        **changes,
    )


class FakeStateStore:
    """The values that a task stores over retries and clears."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any, *, retention: timedelta) -> None:
        assert retention == NEVER_EXPIRE
        self.values[key] = value


def context(user: str | None = "ada", *, asked_about: str | None = DECISION.digest, judged_for: str = "") -> Any:
    """`asked_about`: the decision that the task asked about before; None for a task that has not run yet. `judged_for`:
    who triggered the run of NAME.promote that asks."""
    return {
        "params": {"decision": DECISION.digest, "asked_by": judged_for},
        "task_instance": SimpleNamespace(id="ti-1"),
        "dag_run": SimpleNamespace(triggering_user_name=user),
        "task_state_store": FakeStateStore(**({"asked_about": asked_about} if asked_about else {})),
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect what reaches Airflow's table of questions."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **given: found.append(given))
    return found


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the question builder importable: it is named by its module, which pytest does not put on the path."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(question=question))  # type: ignore[arg-type]


def event(option: str, user: dict[str, str] | None, **changes: Any) -> dict[str, Any]:
    facts = {"chosen_options": [option], "params_input": {}, "responded_at": AT, "responded_by_user": user}
    return {**facts, "timedout": False, **changes}


def test_the_question_goes_to_the_approvers_and_a_timeout_is_a_rejection(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(TaskAwaitingInput) as parked:
        operator().execute(context(asked_about=None))
    assert parked.value.timeout == timedelta(hours=2)
    assert parked.value.method_name == "execute_complete"
    [given] = asked
    assert given["assigned_users"] == [{"id": "7", "name": "bob"}]
    assert given["defaults"] == ["Reject"]
    assert given["options"] == ["Approve", "Reject"]
    assert (given["subject"], given["body"]) == ("Sure?", "{{ 7 * 6 }} **bold**"), "never read as a template"


def asked_for(user: str | None, *events: dict[str, Any], path: str = "projects/shapes.toml") -> list[dict[str, Any]]:
    """What starts the run of NAME.approve, for a run of NAME.promote that this user or these events started."""
    judging = {
        "dag_run": SimpleNamespace(triggering_user_name=user, run_id="manual__1"),
        "triggering_asset_events": {"candidate": [SimpleNamespace(extra=extra) for extra in events]},
        "params": {},
    }
    return approval_run(path, DECISION.model_dump(mode="json"), judging, f"{__name__}:question")


def test_a_person_who_posted_an_asset_event_is_not_known_and_nobody_is_asked() -> None:
    with pytest.raises(AirflowFailException, match="does not say who"):
        asked_for(None, {}, {"from_rest_api": True})
    assert asked_for(None, {"from_rest_api": True}, path="no approval required")


def test_events_of_tasks_and_a_person_who_triggered_the_run_are_known() -> None:
    run_id = f"decision_{DECISION.digest[:12]}__manual__1"
    for user, extra in ((None, {}), ("ada", {"from_rest_api": True})):
        conf = {"decision": DECISION.digest, "asked_by": user or ""}
        assert asked_for(user, extra) == [{"conf": conf, "trigger_run_id": run_id}]


def test_whoever_had_the_candidate_judged_is_among_those_who_may_not_approve(asked: list[dict[str, Any]]) -> None:
    given = event("Approve", {"id": "7", "name": "bob"})
    answer = operator().execute_complete(context("eve", judged_for="ada"), given)
    assert answer["asked_by"] == ["eve", "ada"]


def test_no_question_is_asked_when_no_approval_is_required(asked: list[dict[str, Any]]) -> None:
    assert operator("no approval required").execute(context()) is None
    assert asked == []


@pytest.mark.parametrize(
    ("given", "answer", "by"),
    [
        (event("Approve", {"id": "7", "name": "bob"}), "approve", ("7", "bob")),
        (event("Reject", {"id": "7", "name": "bob"}), "reject", ("7", "bob")),
        (event("Reject", None, timedout=True), "timeout", ("", "")),
    ],
)
def test_every_answer_is_returned_with_the_person_who_gave_it(
    given: dict[str, Any], answer: str, by: tuple[str, str]
) -> None:
    approval = Approval.model_validate(operator().execute_complete(context(), given))
    assert (approval.answer, (approval.by_id, approval.by), approval.at) == (answer, by, AT)
    assert (approval.decision_digest, approval.asked_by) == (DECISION.digest, ("ada",))


def test_a_run_without_a_triggering_user_has_no_requester() -> None:
    given = event("Approve", {"id": "7", "name": "bob"})
    assert operator().execute_complete(context(None), given)["asked_by"] == []


def test_the_notification_contains_the_question(asked: list[dict[str, Any]]) -> None:
    announced: list[dict[str, str]] = []
    asking = operator(notifiers=[lambda _: announced.append(asking.announcement)])
    with pytest.raises(TaskAwaitingInput):
        asking.execute(context(asked_about=None))
    (said,) = announced
    assert (said["message"], said["report_uri"]) == ("Sure?", "file:///store/reports/1.html")
    assert said["decision_digest"] == GateDecision.model_validate(dict(asking.decision)).digest


def test_a_retry_asks_the_same_question_and_mentions_the_retry(asked: list[dict[str, Any]]) -> None:
    """Airflow 3.3 loses an answer that comes before its scheduler saw the asking process end, and retries the task."""
    announced: list[str] = []
    asking = operator(notifiers=[lambda _: announced.append(asking.announcement["message"])])
    remembered = context(asked_about=None)
    for _ in range(2):
        with pytest.raises(TaskAwaitingInput):
            asking.execute(remembered)
    assert [given["subject"] for given in asked] == ["Sure?", "Sure?"]
    assert announced == ["Sure?", "Sure? It was asked before; an answer given then did not arrive."]


def test_another_decision_is_not_asked_under_the_first_question(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(AirflowFailException, match="about another decision"):
        operator().execute(context(asked_about="1" * 64))
    assert asked == []


@pytest.mark.parametrize("asked_about", ["1" * 64, None])
def test_an_answer_applies_to_its_decision_only(asked_about: str | None) -> None:
    """The gate ran again between question and answer, or the question's decision is unknown."""
    given = event("Approve", {"id": "7", "name": "bob"})
    with pytest.raises(AirflowFailException, match="Nothing was moved"):
        operator().execute_complete(context(asked_about=asked_about), given)
