"""Approval through a real api-server, with checked identities: rejected, too late, one's own, approved.

The promote DAG is ours; its evaluation is found by digest, so nothing is trained or drawn. One candidate and three
runs, in one sequence since every run costs minutes. Ada trains and triggers, Bob may approve, Eve may do neither.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_world import (
    MARKS,
    Airflow,
    World,
    publish_evaluated_candidate,
    publish_snapshot,
    running_world,
    shapes_project,
    wait_for,
)

from pipelines.settings import Settings, load_settings
from pipelines.stages import champion
from pipelines.tracking import registry

pytestmark = [*MARKS, pytest.mark.timeout(1800)]

USERS = {"admin": "admin", "ada": "op", "bob": "user", "eve": "op"}
APPROVAL_TIMEOUT_SECONDS = 90
SETTLE_SECONDS = 5.0
"""Wait until Airflow has noticed that the asking process ended; an earlier response would be lost."""
JUDGING = "shapes.promote"
DAG_ID = "shapes.approve"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A platform on which version 1 waits for its promotion."""
    folder = tmp_path_factory.mktemp("approval")

    def publish_candidate(path: str, settings: Settings) -> None:
        snapshot = publish_snapshot(folder, settings).model_dump(mode="json")
        publish_evaluated_candidate(path, settings, folder, snapshot=snapshot, trained_by="ada")

    hours = APPROVAL_TIMEOUT_SECONDS / 3600
    approval = f'[approval]\nmode = "required"\napprovers = ["ada", "bob"]\ntimeout_hours = {hours}\n'
    with running_world(folder, shapes_project() + approval, users=USERS, env={}, before=publish_candidate) as world:
        world.login("admin").unpause(JUDGING)
        yield world


def judge(api: Airflow) -> str:
    """Have the candidate judged; return the id of the run that asks people about the decision."""
    judged = api.succeed(JUDGING, api.trigger(JUDGING))
    [asking] = [str(run["dag_run_id"]) for run in api.runs(DAG_ID) if str(run["dag_run_id"]).endswith(f"__{judged}")]
    return asking


def wait_for_approval_request(api: Airflow, run_id: str) -> dict[str, Any]:
    """Return the approval request, once it exists."""

    def is_requested() -> bool:
        assert api.run(DAG_ID, run_id)["state"] in ("queued", "running"), api.failures(DAG_ID, run_id)
        return api.state_of(DAG_ID, run_id, "approve") == "awaiting_input"

    wait_for("question", is_requested)
    time.sleep(SETTLE_SECONDS)
    return api.question(DAG_ID, run_id, "approve")


def promotion_of(api: Airflow, run_id: str) -> dict[str, Any]:
    """Return the promote task's log, once the run has ended."""
    promotion: dict[str, Any] = api.xcom(DAG_ID, api.succeed(DAG_ID, run_id), "promote")
    return promotion


def test_self_approval_is_refused_and_a_rejection_or_timeout_moves_nothing(world: World) -> None:
    ada, bob, eve = (world.login(user) for user in ("ada", "bob", "eve"))

    run_id = judge(ada)
    question = wait_for_approval_request(ada, run_id)
    assert question["subject"] == "Make version 1 of shapes the champion?"
    assert "**promote**" in question["body"]
    assert "May not approve: ada" in question["body"]
    assert [user["id"] for user in question["assigned_users"]] == ["bob"]
    for other in (ada, eve):
        with pytest.raises(RuntimeError, match=r"403.*is not a respondent"):
            other.respond(DAG_ID, run_id, "approve", "Approve")
    bob.respond(DAG_ID, run_id, "approve", "Reject")
    with pytest.raises(RuntimeError, match="409"):
        bob.respond(DAG_ID, run_id, "approve", "Approve")
    rejected = promotion_of(ada, run_id)
    assert (rejected["moved"], rejected["outcome"]) == (False, "rejected")
    assert rejected["message"] == "version 1 was not promoted: bob rejected it; nothing was moved"

    late_id = judge(eve)
    wait_for_approval_request(eve, late_id)
    late = promotion_of(eve, late_id)
    assert (late["moved"], late["outcome"]) == (False, "rejected")
    assert "no approver answered within" in late["message"]
    assert champion.history(world.path) == []
    assert registry.aliases(load_settings(), "shapes") == {"candidate": 1}
    tags = registry.version_tags(load_settings(), "shapes", 1)
    assert tags is not None
    assert (tags["trained.by"], tags["approval.answer"]) == ("ada", "timeout")


def test_the_approver_and_time_are_recorded(world: World) -> None:
    bob = world.login("bob")
    run_id = judge(world.login("ada"))
    wait_for_approval_request(bob, run_id)
    bob.respond(DAG_ID, run_id, "approve", "Approve")
    promotion = promotion_of(bob, run_id)
    assert (promotion["moved"], promotion["outcome"], promotion["to_version"]) == (True, "promoted", 1)
    [entry] = champion.history(world.path)
    assert (entry["actor"], entry["approver"], entry["to_version"]) == ("ada", "bob", 1)
    assert entry["approved_at"] < entry["at"]
    tags = registry.version_tags(load_settings(), "shapes", 1)
    assert tags is not None
    assert (tags["approval.answer"], tags["approval.by"]) == ("approve", "bob")
    assert champion.reconcile(world.path, actor="tester")["state"] == "agrees"


def test_a_question_that_waits_keeps_no_other_version_from_being_judged(world: World, tmp_path: Path) -> None:
    ada, settings = world.login("ada"), load_settings()
    snapshot = publish_snapshot(tmp_path, settings).model_dump(mode="json")
    for number in range(2, 7):
        publish_evaluated_candidate(world.path, settings, tmp_path, snapshot=snapshot, trained_by="ada", number=number)
    first = ada.succeed(JUDGING, ada.trigger(JUDGING))

    def questions() -> set[str]:
        return {str(run["dag_run_id"]) for run in ada.runs(DAG_ID) if first in str(run["dag_run_id"])}

    wait_for("question about each version", lambda: len(questions()) == 5)
    states = {ada.state_of(DAG_ID, run_id, "approve") for run_id in questions()}
    assert "awaiting_input" in states, "they wait at the same time"
    for run_id in questions():
        assert promotion_of(ada, run_id)["outcome"] == "rejected"
    assert champion.history(world.path)[-1]["to_version"] == 1
