"""A loop in a live scheduler leaves no secret in Airflow's database and logs, in MLflow, in the store or in a job.

Every secret setting has a planted value, the password of Airflow's admin counts too. Ada triggers; a webhook and a mail
server take notifications with a log-in, then the webhook is gone. Hostile parameters go through Airflow's API.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from embedded_world import MARKS, Airflow, World, running_world, wait_for
from planted import SECRETS, ProcessList, leaks, make_signing_key, secret_environment, small_project, texts_of
from sinks import mailbox, webhook

from pipelines.platform import services

pytestmark = [*MARKS, pytest.mark.timeout(1500)]

NOTIFY = """
[notify]
on = ["held", "failed"]
webhook = { connection = "chat", endpoint = "room" }
mail = { connection = "post", to = ["models@example.org"] }
"""
REASON = "too many black images"
HOSTILE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("shapes.train", {"generation": "../../etc"}),
    ("shapes.train", {"generation": {"path": "s3://elsewhere/weights"}}),
    ("shapes.train", {"generation": 2**40}),
    ("shapes.promote", {"version": "registry.example/image:latest"}),
    ("shapes.promote", {"tried": ["{{ conn.chat.password }}"]}),
    ("shapes.promote", {"tried": [-1]}),
    ("shapes.rollback", {"reason": REASON, "to_version": "os:system"}),
    ("shapes.rollback", {"reason": REASON, "forward": "yes"}),
    ("shapes.rollback", {"reason": "black\nada moved version 7"}),
    ("shapes.rollback", {"reason": "x" * 501}),
    ("shapes.rollback", {}),
)
OTHER_NAMES = {"path": "/tmp/evil.toml", "project_path": "/tmp/evil.toml", "actor": "root", "stage": "os:system"}


class Left:
    """The run's folder after its end, what its processes showed, and the password of Airflow's admin."""

    def __init__(self, folder: Path, processes: ProcessList, password: str) -> None:
        self.processes = processes
        self.secrets = {**SECRETS, "ADMIN_PASSWORD": password}
        self.files = dict(texts_of(folder))


@pytest.fixture(scope="module")
def messages() -> dict[str, list[Any]]:
    """What the sinks received."""
    return {"posted": [], "mailed": []}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, messages: dict[str, list[Any]]) -> Left:
    folder, keys = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("keys")
    with ExitStack() as sinks, mailbox() as (post, messages["mailed"]):
        chat, messages["posted"] = sinks.enter_context(webhook())
        env = {**secret_environment(chat, post), **make_signing_key(keys)}
        text = small_project(folder) + NOTIFY
        with (
            ProcessList(folder / "state") as processes,
            running_world(folder, text, users={"admin": "admin", "ada": "op"}, env=env) as world,
        ):
            password = services.admin_password(world.settings)
            turn_the_loop(world.login("ada"))
            wait_for("messages", lambda: messages["posted"] and messages["mailed"], seconds=60)
            refuse_hostile_parameters(world.login("ada"))
            sinks.close()
            roll_back_without_a_webhook(world)
    return Left(folder, processes, password)


def turn_the_loop(ada: Airflow) -> None:
    """Ingest; the assets start training, and judging, which refuses a model of two steps."""
    loop = [f"shapes.{name}" for name in ("ingest", "train", "promote", "rollback")]
    wait_for("DAGs", lambda: set(loop) <= set(ada.dag_ids()) or ada.import_errors())
    assert ada.import_errors() == []
    for dag_id in loop:
        ada.unpause(dag_id)
    ada.succeed("shapes.ingest", ada.trigger("shapes.ingest"))
    for name in ("train", "promote"):
        dag_id = f"shapes.{name}"
        found = wait_for(f"run of {dag_id}", lambda dag_id=dag_id: ada.runs(dag_id))
        ada.succeed(dag_id, str(found[0]["dag_run_id"]))


def refuse_hostile_parameters(ada: Airflow) -> None:
    """Airflow refuses each run at its API; none is created."""
    before = {dag_id: len(ada.runs(dag_id)) for dag_id, _ in HOSTILE}
    for dag_id, conf in HOSTILE:
        with pytest.raises(RuntimeError, match=r"\b4\d\d: "):
            ada.trigger(dag_id, conf)
    assert {dag_id: len(ada.runs(dag_id)) for dag_id in before} == before


def roll_back_without_a_webhook(world: World) -> None:
    """A rollback with further names in its conf fails like any other before the first promotion."""
    ada = world.login("ada")
    run_id = ada.trigger("shapes.rollback", {"reason": REASON, **OTHER_NAMES})
    assert ada.end_of("shapes.rollback", run_id) == "failed"
    assert "evil" not in ada.failures("shapes.rollback", run_id)


def test_the_loop_used_the_secrets(left: Left, messages: dict[str, list[Any]]) -> None:
    assert {message["token"] for message in messages["posted"]} == {SECRETS["WEBHOOK_TOKEN"]}
    assert "held" in {message["event"] for message in messages["posted"]}
    assert messages["mailed"]
    databases = [name for name in left.files if name.startswith("rows of ") and name.endswith(".db")]
    assert sorted(databases) == ["rows of state/airflow/airflow.db", "rows of state/mlflow/mlflow.db"]
    assert b"rendered_task_instance_fields" in left.files["rows of state/airflow/airflow.db"]
    for part in ("state/jobs/", "state/store/evaluations/", "state/mlflow/artifacts/", "state/airflow/logs/"):
        assert any(name.startswith(part) for name in left.files), part


def test_nothing_that_is_left_contains_a_secret(left: Left) -> None:
    found = leaks(left.files.items(), left.secrets)
    assert found == ["ADMIN_PASSWORD in state/airflow/passwords.json"]


def test_no_process_showed_a_secret(left: Left) -> None:
    assert len(left.processes.commands) > 5
    assert any(name.startswith("environment of ") for name in left.processes.seen)
    assert leaks(left.processes.seen.items(), left.secrets) == []


def test_the_messages_contain_no_secret(left: Left, messages: dict[str, list[Any]]) -> None:
    bodies = [{**message, "token": ""} for message in messages["posted"]]
    assert leaks([("messages", json.dumps([bodies, messages["mailed"]]).encode())], left.secrets) == []
