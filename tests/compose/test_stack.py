"""The platform of docker-compose.yml, from raw pairs to the champion, while parts of it restart: `make compose-test`.

One stack and one sequence, since a start costs minutes. Third-party services are stand-ins (override.yml); the images,
the init jobs, the networks, the users and every command of ours are those of the real file.
"""

import base64
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images
import pytest
from stack import DOCKER, ROOT, Stack, wait_for

from pipelines.platform.rest import AirflowApi

pytestmark = [pytest.mark.compose, pytest.mark.slow, pytest.mark.timeout(3600)]
RUN_SECONDS = 1200
UNFINISHED = ("queued", "running")
PROJECT = "projects/shapes.toml"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A new stack; removed with its volumes, unless COMPOSE_TEST_KEEP is set for a person who wants to look."""
    folder = tmp_path_factory.mktemp("stack")
    assert shutil.which(DOCKER), f"{DOCKER} is not installed. Install Docker Engine, or name it with DOCKER=..."
    if "COMPOSE_TEST_NO_BUILD" not in os.environ:
        images.build_images(DOCKER, folder)
    made = Stack.create(folder)
    made.down()
    try:
        made.up()
        yield made
    finally:
        if "COMPOSE_TEST_KEEP" not in os.environ:
            made.down()


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> Iterator[AirflowApi]:
    """Airflow's API as the administrator, through the published port."""
    env = stack.env
    url = f"http://127.0.0.1:{env['AIRFLOW_PORT']}"
    api = AirflowApi(url, user="admin", password=env["AIRFLOW_ADMIN_PASSWORD"], attempts=60)
    yield api
    api.close()


@pytest.fixture(scope="module")
def promoted(stack: Stack, airflow: AirflowApi) -> dict[str, str]:
    """Turn the loop once, and restart a part in each of its phases; return the run of each DAG."""
    wait_for("DAGs", lambda: "shapes.ingest" in airflow.dag_ids(), RUN_SECONDS)
    for name in ("ingest", "train", "promote"):
        airflow.unpause(f"shapes.{name}")
    runs = {"ingest": airflow.trigger("shapes.ingest")}
    stack.restart("airflow-scheduler")
    finish(airflow, "shapes.ingest", runs["ingest"])

    runs["train"] = first_run(airflow, "shapes.train")
    wait_for("training", lambda: steps_done(stack) >= 5, RUN_SECONDS)
    stack.restart("mlflow")
    reached = steps_done(stack)
    wait_for("more steps", lambda: steps_done(stack) > reached or is_success(airflow, runs, "train"), RUN_SECONDS)
    stack.restart("postgres")
    finish(airflow, "shapes.train", runs["train"])

    runs["promote"] = first_run(airflow, "shapes.promote")
    wait_for("evaluation", lambda: task_state(airflow, runs, "evaluate") == "deferred", RUN_SECONDS)
    stack.restart("object-store")
    finish(airflow, "shapes.promote", runs["promote"])
    return runs


def first_run(airflow: AirflowApi, dag_id: str) -> str:
    """The run that an asset started."""
    found = wait_for(f"run of {dag_id}", lambda: airflow.runs(dag_id), RUN_SECONDS)
    return str(found[-1]["dag_run_id"])


def finish(airflow: AirflowApi, dag_id: str, run_id: str) -> None:
    """Wait for a run that must succeed; show the logs of its failed tasks when it does not."""

    def ended() -> str | None:
        state = str(airflow.run(dag_id, run_id)["state"])
        return None if state in UNFINISHED else state

    if wait_for(f"end of {dag_id}", ended, RUN_SECONDS) != "success":
        failed = [task for task in airflow.tasks(dag_id, run_id) if task["state"] in ("failed", "up_for_retry")]
        pytest.fail("\n".join(f"{task['task_id']}\n{airflow.log_tail(dag_id, run_id, task)}" for task in failed))


def is_success(airflow: AirflowApi, runs: dict[str, str], name: str) -> bool:
    return str(airflow.run(f"shapes.{name}", runs[name])["state"]) == "success"


def task_state(airflow: AirflowApi, runs: dict[str, str], task_id: str) -> str:
    tasks = airflow.tasks("shapes.promote", runs["promote"])
    return next((str(task["state"]) for task in tasks if task["task_id"] == task_id), "none")


def steps_done(stack: Stack) -> int:
    """Steps that the training has done, as its job reports them where it runs."""
    script = "find /var/lib/plumbline -path '*/jobs/*-train-*' -name progress.json -exec cat {} + || true"
    found = re.findall(r'"done": ?(\d+)', stack.run("airflow-worker", ["sh", "-c", script]))
    return max(map(int, found), default=0)


def plumbline(stack: Stack, *arguments: str) -> Any:
    """Run a command of the product in the stack, as its documentation says; return the JSON that it printed."""
    return json.loads(stack.compose("run", "-T", "--rm", "plumbline", *arguments))


def status_of(url: str, headers: dict[str, str] | None = None, data: bytes | None = None) -> int:
    """Status of a request from this host."""
    request = urllib.request.Request(url, headers=headers or {}, data=data)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)


def test_the_loop_ends_with_a_champion_that_the_ledger_confirms(stack: Stack, promoted: dict[str, str]) -> None:
    status = plumbline(stack, "status", PROJECT)
    assert status["champion"]["version"] == 1
    assert status["last_decision"]["verdict"] == "promote"
    assert status["ledger"] == {"entries": 1, "agrees_with_aliases": True}
    assert status["problems"] == []


def test_each_job_ran_once_and_each_version_is_registered_once(
    stack: Stack, airflow: AirflowApi, promoted: dict[str, str]
) -> None:
    assert [len(airflow.runs(f"shapes.{name}")) for name in ("ingest", "train", "promote")] == [1, 1, 1]
    folders = stack.run("airflow-worker", ["sh", "-c", "ls /var/lib/plumbline/jobs"]).split()
    kinds = [name.split("-")[1] for name in folders]
    assert sorted(kinds) == sorted(set(kinds)), folders


def test_the_oracle_prefers_the_champion(stack: Stack, promoted: dict[str, str]) -> None:
    script = "examples/shapes/ask_oracle.py"
    said = stack.compose("run", "-T", "--rm", "--entrypoint", "python", "plumbline", script)
    assert re.search(r"version 1 wins 0\.\d+", said)


ON_RAY = """[placement.train]
engine = "ray"
num_processes = 1
"""


def test_a_training_runs_on_the_stacks_ray_cluster(stack: Stack, promoted: dict[str, str], tmp_path: Path) -> None:
    """Only its placement differs from the project's, so pairs and features are found by digest."""
    own = tmp_path / "projects"
    own.mkdir()
    text = (ROOT / PROJECT).read_text()
    placement = text[text.index("[placement.train]") : text.index("[placement.evaluate]")]
    (own / "shapes.toml").write_text(text.replace(placement, ON_RAY))
    own.chmod(0o755)
    command = ["run", "-T", "--rm", "--volume", f"{own}:/app/own:ro", "plumbline"]
    [result] = json.loads(stack.compose(*command, "train", "/app/own/shapes.toml", "steps=6", seconds=RUN_SECONDS))
    assert result["steps"] == 6
    jobs = json.loads(stack.compose(*command, "jobs", "list", "/app/own/shapes.toml"))
    assert [(job["kind"], job["state"]) for job in jobs if job["engine"] == "ray"] == [("train", "succeeded")]


def test_doctor_finds_nothing_wrong_inside_the_stack(stack: Stack, promoted: dict[str, str]) -> None:
    checks = plumbline(stack, "doctor", PROJECT)["checks"]
    assert {check["name"]: check["found"] for check in checks if not check["ok"]} == {}


def test_mlflow_refuses_who_does_not_log_in(stack: Stack) -> None:
    url = f"http://127.0.0.1:{stack.env['MLFLOW_PORT']}"
    api = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert status_of(api) == 401
    assert status_of(f"{url}/api/2.0/mlflow/registered-models/alias?name=shapes&alias=champion") == 401
    assert status_of(f"{url}/ajax-api/2.0/mlflow/experiments/search?max_results=1") == 401
    assert status_of(f"{url}/api/2.0/mlflow-artifacts/artifacts") == 401
    assert status_of(api, login("admin", "wrong")) == 401
    assert status_of(api, login("admin", stack.env["MLFLOW_ADMIN_PASSWORD"])) == 200


def login(user: str, password: str) -> dict[str, str]:
    """The header of a log-in."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


ASK_RAY = """
import json, sys, urllib.error, urllib.request
headers = {"Authorization": "Bearer " + sys.argv[2]} if len(sys.argv) > 2 else {}
data = json.dumps({"entrypoint": "true"}).encode() if sys.argv[1].endswith("/jobs/") else None
request = urllib.request.Request(sys.argv[1], data=data, headers={"Content-Type": "application/json", **headers})
try:
    print(urllib.request.urlopen(request, timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.mark.parametrize("path", ["/nodes?view=summary", "/api/jobs/", "/api/cluster_status"])
def test_ray_refuses_who_has_no_token(stack: Stack, path: str) -> None:
    """Submitting a job runs any command, so this is the door that must be shut."""

    def ask(*token: str) -> int:
        url = f"http://ray-head:8265{path}"
        return int(stack.run("airflow-worker", ["python", "-c", ASK_RAY, url, *token]))

    assert ask() == 401
    assert ask("0" * 64) in (401, 403)
    assert ask(stack.env["RAY_AUTH_TOKEN"]) == 200


def test_a_ray_client_without_the_token_cannot_join(stack: Stack) -> None:
    """Over gRPC, which the dashboard's token check does not cover."""

    def joins(settings: str) -> bool:
        script = f"{settings} timeout 60 ray status --address ray-head:6379 >/dev/null 2>&1; echo $?"
        status = stack.run("ray-worker", ["sh", "-c", script]).strip()
        assert status != "124", "neither accepted nor refused in time"
        return status == "0"

    assert joins("")
    assert not joins("RAY_AUTH_MODE=disabled RAY_AUTH_TOKEN=")
    assert not joins("RAY_AUTH_TOKEN=" + "0" * 64)


def test_nothing_but_the_two_interfaces_is_published(stack: Stack) -> None:
    published = {
        name: [each for binding in found["NetworkSettings"]["Ports"].values() for each in binding or ()]
        for name, found in stack.states().items()
    }
    assert {name for name, ports in published.items() if ports} == {"airflow-api", "mlflow"}
    assert {each["HostIp"] for ports in published.values() for each in ports} == {"127.0.0.1"}


def test_who_runs_jobs_cannot_reach_the_databases(stack: Stack) -> None:
    script = "import socket; socket.create_connection(('postgres', 5432), timeout=5)"
    said = stack.run("airflow-worker", ["sh", "-c", f'python -c "{script}" 2>&1 | tail -1'])
    assert "gaierror" in said, "the name is unknown on its networks"


def test_no_process_runs_as_root_or_shows_a_secret(stack: Stack, promoted: dict[str, str]) -> None:
    secrets = {value for name, value in stack.env.items() if len(value) > 20}
    for name, found in stack.states().items():
        if found["State"]["Status"] != "running":
            continue
        user = stack.run(name, ["id", "-u"]).strip()
        assert user != "0", name
        shown = stack.run(name, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
        assert [secret for secret in secrets if secret in shown] == [], name


def test_the_logs_of_the_services_hold_no_secret(stack: Stack, promoted: dict[str, str]) -> None:
    secrets = {name: value for name, value in stack.env.items() if len(value) > 20}
    del secrets["OBJECT_STORE_ACCESS_KEY"]  # the name of a user of the store, which every signed address has
    for service in stack.states():
        text = stack.log(service, lines=100_000)
        assert [name for name, value in secrets.items() if value in text] == [], service
