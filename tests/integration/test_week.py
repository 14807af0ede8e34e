"""A week of an operator at a browser: training by the clock, two candidates compared, approval, rollback, an alarm.

Airflow, MLflow, the scheduler, the training and the webhook are real; two of the three candidates have a ready-made
evaluation. Ada operates, Bob approves.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import PAGE_MILLISECONDS, Person, log_in, open_browser
from embedded_world import (
    MARKS,
    Airflow,
    Json,
    World,
    publish_evaluated_candidate,
    running_world,
    shapes_project,
    wait_for,
)
from mlflow import MlflowClient
from playwright.sync_api import Browser, expect
from sinks import webhook

from pipelines.platform import services
from pipelines.settings import load_settings
from pipelines.stages import champion
from pipelines.stages import pairs as pair_stages
from pipelines.tracking import pages, registry

pytestmark = [*MARKS, pytest.mark.timeout(1800)]

USERS = {"admin": "admin", "ada": "op", "bob": "user"}
SMALL = {
    'recipe = "diffusion_dpo_shapes"\n': 'recipe = "diffusion_dpo_shapes"\noverrides = ["steps=40"]\n',
    "num_processes = 2\nmicro_batch = 64": "num_processes = 1\nmicro_batch = 64",
}
WEEK = """
[schedule]
train = "* * * * *"
reconcile = "* * * * *"
timezone = "Europe/Berlin"

[approval]
mode = "required"
approvers = ["bob"]
timeout_hours = 2

[notify]
webhook = { connection = "chat", endpoint = "room" }
"""


@dataclass
class Week:
    """The platform, the people at their browsers, and what the webhook received."""

    world: World
    folder: Path
    api: Airflow
    ada: Person
    bob: Person
    posted: list[Json] = field(default_factory=list)

    def task(self, dag_id: str, run_id: str, task: str) -> str:
        """Return the address of a task's page in Airflow."""
        return f"{self.ada.airflow}/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task}"


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    folder = tmp_path_factory.mktemp("week")
    text = shapes_project()
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    with (
        webhook() as (chat, posted),
        running_world(folder, text + WEEK, users=USERS, env={"AIRFLOW_CONN_CHAT": chat}) as world,
        open_browser() as browser,
    ):
        ada, bob = (window(browser, world, user) for user in ("ada", "bob"))
        yield Week(world, folder, world.login("ada"), ada, bob, posted)


def window(browser: Browser, world: World, user: str) -> Person:
    """Return a user's window."""
    platform = services.read_platform(world.settings)
    assert platform is not None
    passwords = json.loads((world.settings.state_dir / "airflow" / "passwords.json").read_text())
    addresses = {"airflow": platform.airflow.url, "mlflow": platform.mlflow.url}
    return log_in(browser, user, passwords[user], **addresses, folder=str(world.settings.state_dir.parent))


def test_monday_the_clock_starts_a_training(week: Week) -> None:
    path = week.world.path
    for shard in pair_stages.list_shards(path):
        pair_stages.validate(path, pair_stages.ingest(path, shard))
    week.api.unpause("shapes.train")

    def scheduled() -> str | None:
        found = [run for run in week.api.runs("shapes.train") if run["run_type"] == "scheduled"]
        return str(found[0]["dag_run_id"]) if found else None

    run_id = str(wait_for("scheduled training", scheduled))
    week.api.succeed("shapes.train", run_id)
    week.api.pause("shapes.train")  # Not before: the tasks of a paused DAG do not start.
    week.ada.open(f"{week.ada.airflow}/dags/shapes.train/runs")
    week.ada.sees("scheduled__")
    week.ada.keep("week_schedule")

    week.ada.open(f"{week.task('shapes.train', run_id, 'train')}/mapped/0/details")
    with week.ada.page.expect_popup() as opened:
        week.ada.page.get_by_role("link", name="MLflow run").click()
    in_mlflow = replace(week.ada, page=opened.value)
    in_mlflow.page.set_default_timeout(PAGE_MILLISECONDS)
    in_mlflow.sees("diffusion_dpo_shapes, beta")
    in_mlflow.sees(", v1")
    in_mlflow.keep("week_training")
    experiment, training = in_mlflow.page.url.partition("?")[0].split("/runs/")
    parent = MlflowClient(load_settings().tracking_uri).get_run(training).data.tags["mlflow.parentRunId"]
    in_mlflow.open(f"{experiment}/runs/{parent}{pages.TRAINING_VIEW}")
    in_mlflow.page.get_by_role("button", name="pairs").first.click()
    with in_mlflow.page.expect_popup() as opened:
        in_mlflow.page.get_by_role("link", name="/artifacts/").click()
    data_report = opened.value.frame_locator("iframe").first
    expect(data_report.get_by_role("heading", name="Pairs of shapes, snapshot")).to_be_visible()
    opened.value.close()
    in_mlflow.page.close()
    assert registry.get_alias(load_settings(), "shapes", "candidate") == 1


def test_tuesday_two_candidates_are_compared(week: Week) -> None:
    settings, path = load_settings(), week.world.path
    snapshot = pair_stages.snapshot(path)
    week.api.unpause("shapes.promote")
    for number in (2, 3):
        publish_evaluated_candidate(path, settings, week.folder, snapshot=snapshot, trained_by="ada", number=number)
        run_id = week.api.succeed("shapes.promote", week.api.trigger("shapes.promote", {"version": number}))
        week.ada.open(f"{week.task('shapes.promote', run_id, 'gate')}/details")
        expect(week.ada.page.get_by_role("link", name="Report")).to_be_visible()
    week.ada.keep("week_gate_task")

    week.ada.open(pages.report_page(settings, "shapes", 3))
    report = week.ada.page.frame_locator("iframe").first
    expect(report.get_by_role("heading", name="Version 3 of shapes is better than the base model.")).to_be_visible()
    week.ada.keep("week_report")

    week.ada.open(pages.experiment_page(settings, "shapes"))
    for number in (2, 3):
        row = week.ada.page.get_by_role("row").filter(has_text=f"shapes version {number}").first
        row.get_by_role("checkbox").first.check()
    week.ada.page.get_by_role("button", name="Compare").or_(week.ada.page.get_by_role("link", name="Compare")).click()
    week.ada.sees("Comparing 2 Runs")
    for figure in ("gate/brightness/vs_champion/win_rate", "gate/brightness/vs_base/win_rate"):
        expect(week.ada.page.get_by_role("link", name=figure, exact=True)).to_be_visible()
    week.ada.page.get_by_text("Visualizations").click()
    week.ada.page.get_by_role(
        "link", name="gate/caption_match/vs_champion/win_rate", exact=True
    ).scroll_into_view_if_needed()
    week.ada.keep("week_compare")


def test_wednesday_a_second_person_approves(week: Week) -> None:
    week.bob.open(f"{week.bob.airflow}/required_actions")
    week.bob.sees("Make version 3 of shapes the champion?")
    week.bob.keep("week_questions")
    week.bob.page.get_by_text("Make version 3 of shapes the champion?").click()
    week.bob.sees("May not approve: ada")
    expect(week.bob.page.get_by_role("link", name="Report", exact=True)).to_be_visible()
    week.bob.keep("week_approve")
    week.bob.page.get_by_role("button", name="Approve").click()
    wait_for("promotion", lambda: registry.get_alias(load_settings(), "shapes", "champion") == 3)
    [entry] = champion.history(week.world.path)
    assert (entry["actor"], entry["approver"], entry["to_version"]) == ("ada", "bob", 3)

    week.ada.open(pages.version_page(load_settings(), "shapes", 3))
    week.ada.sees("champion")
    week.ada.keep("week_version")
    wait_for("message", lambda: "promoted" in {message["event"] for message in week.posted})


def test_thursday_the_champion_is_rolled_back(week: Week) -> None:
    page = week.ada.open(f"{week.ada.airflow}/dags/shapes.rollback")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator("input[name=element_reason]").fill("users report grey images")
    week.ada.keep("week_rollback")
    dialog.get_by_role("button", name="Trigger", exact=True).click()
    wait_for("rollback", lambda: registry.get_alias(load_settings(), "shapes", "champion") is None)
    last = champion.history(week.world.path)[-1]
    assert (last["action"], last["actor"], last["to_version"]) == ("rollback", "ada", None)
    assert last["reason"] == "users report grey images"
    wait_for("message", lambda: "rolled_back" in {message["event"] for message in week.posted})


def test_friday_an_alarm_is_received(week: Week) -> None:
    registry.set_alias(load_settings(), "shapes", "champion", 2)
    wait_for("alarm", lambda: "alarm" in {message["event"] for message in week.posted})
    [alarm, *_] = [message for message in week.posted if message["event"] == "alarm"]
    assert "version 2" in alarm["text"]
    assert f"{week.ada.airflow}/dags/shapes.reconcile/runs/" in alarm["run"]
    week.ada.open(alarm["run"])
    week.ada.sees("sound_the_alarm")
    week.ada.keep("week_alarm")
