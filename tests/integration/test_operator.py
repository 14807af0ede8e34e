"""The operator on a live platform with PostgreSQL. Whatever people do and whatever dies: one job, and its result.

The DAG `tiny.train` has the shape of `NAME.train`: a mapped TrainJobOperator, and a mapped task that reads its results.
Its jobs are real trainings of a few seconds; each scenario has a seed, hence a job, to itself.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from embedded_world import (
    MARKS,
    ROOT,
    Airflow,
    World,
    processes_of,
    publish_evaluated_candidate,
    publish_snapshot,
    running_world,
    shapes_project,
    wait_for,
)

from pipelines import host
from pipelines.dispatch.job_folder import JobFolder
from pipelines.platform import doctor, services
from pipelines.project.file import load_project
from pipelines.release.awaiting import awaiting_judgement
from pipelines.settings import Settings, load_settings
from pipelines.stages import champion
from pipelines.tracking.runs import connect
from pipelines.workspace import Workspace

pytestmark = [*MARKS, pytest.mark.timeout(300)]

DAG_ID, TASK, AFTER = "tiny.train", "train", "after"
LONG, SHORT = 5000, 40
"""Steps of a training that must not end by itself, and of one that ends within seconds."""
PREEMPTIONS = 10
OUTAGE_SECONDS = float(os.environ.get("PLUMBLINE_TEST_OUTAGE_SECONDS", "60"))
"""Airflow's defaults give a task up after three heartbeats of at most 31 seconds each, mostly within 60."""

PREPARE = """
import json, sys
from pathlib import Path
from pipelines.stages import jobs, pairs

path = sys.argv[1]
for shard in pairs.list_shards(path):
    pairs.validate(path, pairs.ingest(path, shard))
snapshot = pairs.snapshot(path)
cache = jobs.run_job(path, "encode", {"snapshot": snapshot, "recipe": 0}, run_key="")
given = {"snapshot": snapshot, "recipe": 0, "cache": cache}
Path(sys.argv[2]).write_text(json.dumps({"path": path, "given": given}))
"""

DAGS = """
import json
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, task

from pipelines.dispatch.operators.results import result_of
from pipelines.dispatch.operators.train_job import TrainJobOperator, retry_policy

HERE = Path(__file__).parent
GIVEN = json.loads((HERE / "given.json").read_text())
params = {
    "generation": Param(0, type="integer"),
    "seed": Param(0, type="integer"),
    "steps": Param(40, type="integer"),
    "learning_rate": Param("1e-5", type="string"),
}
with DAG("tiny.train", schedule=None, params=params, max_active_runs=4) as dag:
    train = TrainJobOperator.partial(
        task_id="train",
        project_path=GIVEN["path"],
        stage="train",
        overrides=[
            "global_batch=8",
            "seed={{ params.seed }}",
            "steps={{ params.steps }}",
            "optimiser.learning_rate={{ params.learning_rate }}",
        ],
        poll_seconds=0.5,
        resubmit_seconds=0.5,
        retries=2,
        retry_delay=timedelta(seconds=1),
        retry_policy=retry_policy(),
    ).expand(given=[GIVEN["given"]])

    @task
    def after(given):
        return result_of("train")["spec_digest"]

    train >> after.expand(given=[GIVEN["given"]])

with DAG("tiny.hold", schedule=None, params={"seconds": Param(0, type="number")}):

    @task(retries=0)
    def hold(params=None):
        time.sleep(params["seconds"])
        return "kept"

    hold()
"""


@dataclass
class Run:
    """A run of `tiny.train`, with the job that it starts."""

    api: Airflow
    settings: Settings
    run_id: str
    seed: int

    @property
    def state(self) -> str:
        """State of the train task."""
        return self.api.state_of(DAG_ID, self.run_id, TASK)

    @property
    def tries(self) -> int:
        """Number of the latest try of the train task."""
        return next(int(t["try_number"]) for t in self.api.tasks(DAG_ID, self.run_id) if t["task_id"] == TASK)

    @property
    def folder(self) -> JobFolder:
        """The folder of the one job with this seed."""
        [found] = self.folders()
        return found

    def folders(self) -> list[JobFolder]:
        """Folders of all jobs with this seed."""
        found = [JobFolder(path) for path in (self.settings.state_dir / "jobs").glob("shapes-train-*")]
        requests = [(folder, folder.read_request()) for folder in found]
        return [folder for folder, request in requests if request and request.spec["recipe"]["seed"] == self.seed]

    @property
    def progress(self) -> int:
        """Steps that the job has done."""
        if not self.folders():
            return 0
        read = self.folder.read_progress()
        return read.done if read else 0

    @property
    def job_state(self) -> str:
        """State of the job, as its supervisor wrote it."""
        status = self.folder.read_status()
        return status.state if status else "unknown"

    @property
    def attempts(self) -> int:
        """Attempts of the job."""
        return len(list(self.folder.path.glob("attempt-*.log")))

    def wait_training(self, more_than: int = 0) -> None:
        """Wait until the task is deferred and its job has done more steps."""
        wait_for("deferred task", lambda: self.state == "deferred")
        wait_for("step of the training", lambda: self.progress > more_than)

    def set_state(self, state: str) -> None:
        """Mark the train task, as a person does in the UI."""
        self.api.patch_task(DAG_ID, self.run_id, f"{TASK}/0", state)

    def clear(self) -> None:
        """Clear the train task and what follows it."""
        self.api.clear(DAG_ID, self.run_id, TASK)

    def ends(self, state: str) -> None:
        """Wait for the end of the run in this state."""
        assert self.api.end_of(DAG_ID, self.run_id) == state, self.api.failures(DAG_ID, self.run_id)

    def log(self, task_id: str = TASK) -> str:
        """Return the end of the log of a task's latest try."""
        [task] = [t for t in self.api.tasks(DAG_ID, self.run_id) if t["task_id"] == task_id]
        return self.api.log_tail(DAG_ID, self.run_id, task, lines=400)

    def succeeded_with_one_job(self, *, attempts: int | None = None) -> None:
        """Check that the run has its result from one job and one MLflow run, and that nothing is left of it."""
        self.ends("success")
        assert self.job_state == "succeeded"
        assert attempts is None or self.attempts == attempts
        assert self.mlflow_runs() == ["FINISHED"]
        self.check_nothing_left()

    def stopped(self) -> None:
        """Check that the job was cancelled, its MLflow run closed, and that nothing is left of it."""
        wait_for("end of the job", lambda: self.job_state == "cancelled", seconds=90)
        wait_for("end of the MLflow run", lambda: self.mlflow_runs() == ["KILLED"], seconds=60)
        self.check_nothing_left()

    def processes(self) -> list[int]:
        """Processes of the job that run."""
        mark = str(self.folder.path)
        return [pid for pid in processes_of(self.settings.state_dir) if mark in environment_of(pid)]

    def check_nothing_left(self) -> None:
        """Check that no process of the job runs and that no task claims it."""
        assert self.processes() == []
        claims = Path(self.settings.store_uri.removeprefix("file://")) / "claims" / "shapes"
        wait_for("end of the claim", lambda: not (claims / f"{self.folder.path.name}.json").exists(), seconds=30)

    def mlflow_runs(self) -> list[str]:
        """States of the MLflow runs of the job."""
        with connect(load_settings().tracking_uri) as client:
            experiment = client.get_experiment_by_name("shapes")
            query = f"tags.`plumbline.job_id` = '{self.folder.path.name}'"
            return [run.info.status for run in client.search_runs([experiment.experiment_id], query)]


def environment_of(pid: int) -> str:
    """Return the environment of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


@dataclass
class Platform:
    """The platform under test, and the person who works on it."""

    world: World
    api: Airflow
    folder: Path

    @property
    def settings(self) -> Settings:
        """Its settings."""
        return self.world.settings

    def start(self, seed: int, steps: int, **conf: Any) -> Run:
        """Start a run of `tiny.train`."""
        run_id = self.api.trigger(DAG_ID, {"seed": seed, "steps": steps, **conf})
        return Run(self.api, self.settings, run_id, seed)

    def service(self, name: str) -> Any:
        """Return a part of the platform as it is recorded now."""
        platform = services.read_platform(self.settings)
        assert platform is not None
        return platform.service(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to every process of a part."""
        mark = f"PLUMBLINE_STATE_DIR={self.settings.state_dir}"
        for pid in [self.service(name).process.pid, *host.session_pids(self.service(name).process.pid, mark)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def restarted(self, name: str, before: int) -> None:
        """Wait until the supervision has restarted a part and reported it."""
        wait_for(f"restart of {name}", lambda: self.service(name).process.pid != before, seconds=60)
        wait_for("report of it", lambda: any(f"{name} (pid {before}) had ended" in r for r in self.world.reports))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, postgres: Any) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("operator")
    (folder / "pairs").mkdir()
    shutil.copy(ROOT / "examples/shapes/pairs/train-00000-of-00003.parquet", folder / "pairs")
    (folder / "dags").mkdir()
    (folder / "dags" / "tiny.py").write_text(DAGS)
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    bundles = [
        {"name": "dags-folder", "classpath": local, "kwargs": {}},
        {"name": "tiny", "classpath": local, "kwargs": {"path": str(folder / "dags"), "refresh_interval": 5}},
    ]
    env = {
        **postgres.environment,
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    }

    def encode(path: str, _: Settings) -> None:
        command = [sys.executable, "-c", PREPARE, path, str(folder / "dags" / "given.json")]
        subprocess.run(command, check=True, cwd=ROOT, timeout=200)

    users = {"admin": "admin", "ada": "admin"}
    with running_world(folder, project_text(folder), users=users, env=env, before=encode) as world:
        live = Platform(world, world.login("ada"), folder)
        wait_for("DAGs of the tests", lambda: {"tiny.train", "tiny.hold"} <= set(live.api.dag_ids()))
        for name in ("tiny.train", "tiny.hold"):
            live.api.unpause(name)
        for name in ("monitor", "reconcile"):
            live.api.pause(f"shapes.{name}")
        yield live


def project_text(folder: Path) -> str:
    """The shapes project on one shard, trained by one process, without a sample grid."""
    text = shapes_project().replace(f"{ROOT}/examples/shapes/pairs", str(folder / "pairs"))
    start = text.index("[placement.train]")
    end = text.index("[placement.evaluate]")
    placement = "[placement.train]\nnum_processes = 1\nmicro_batch = 16\ncheckpoint_every_steps = 5\n\n"
    text = text[:start] + placement + text[end:]
    return text.replace("\n[gate]\n", '\n[gate]\nmode = "dry_run"\n')


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_deferred_task_that_is_marked_failed_stops_its_job(live: Platform) -> None:
    run = live.start(1, LONG)
    run.wait_training()
    run.set_state("failed")
    run.stopped()
    run.ends("failed")
    assert run.attempts == 1


def test_a_task_marked_success_leaves_no_green_run_without_a_result(live: Platform) -> None:
    run = live.start(2, LONG)
    run.wait_training()
    run.set_state("success")
    run.stopped()
    run.ends("failed")
    assert run.api.state_of(DAG_ID, run.run_id, AFTER) == "failed"
    assert "Task train left no result" in run.log(AFTER)
    assert "its job has no finished output at" in run.log(AFTER)


def test_a_result_that_was_published_before_the_mark_is_found(live: Platform) -> None:
    """The triggerer hangs, so that the task stays deferred; a person sees the finished job and marks the task."""
    run = live.start(3, SHORT)
    run.wait_training()
    live.signal("triggerer", signal.SIGSTOP)
    try:
        wait_for("end of the job", lambda: run.job_state == "succeeded")
        run.set_state("success")
    finally:
        live.signal("triggerer", signal.SIGCONT)
    run.ends("success")
    assert run.attempts == 1
    assert run.mlflow_runs() == ["FINISHED"], "a finished job is not called killed"
    assert run.processes() == []


def test_a_deferred_task_that_is_cleared_goes_on_with_its_job(live: Platform) -> None:
    run = live.start(4, SHORT)
    run.wait_training()
    run.clear()
    run.succeeded_with_one_job()
    assert run.tries == 2


def test_a_cleared_task_that_has_succeeded_finds_its_result(live: Platform) -> None:
    run = live.start(4, SHORT)
    run.succeeded_with_one_job()
    assert "Found by digest, nothing to run" in run.log(), "another run of the same spec"
    attempts = run.attempts
    run.clear()
    wait_for("next try", lambda: run.tries == 2)
    run.succeeded_with_one_job(attempts=attempts)


def test_a_running_task_that_is_cleared_has_one_job(live: Platform) -> None:
    """It is cleared while it submits, between the start of the job's supervisor and the moment it is deferred."""
    run = live.start(5, SHORT)
    wait_for("submission", lambda: run.folders() and run.folder.read_status(), pause=0.01)
    assert run.state == "running"
    run.clear()
    run.succeeded_with_one_job()
    assert run.tries == 2


def test_a_worker_that_dies_while_it_submits_is_retried_and_reattaches(live: Platform) -> None:
    run = live.start(6, SHORT)
    wait_for("submission", lambda: run.folders() and run.folder.read_status(), pause=0.01)
    titles = processes_of(live.settings.state_dir).items()
    workers = [pid for pid, title in titles if re.match(r"airflow worker -- [0-9a-f]{8}", title)]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    run.succeeded_with_one_job(attempts=1)
    assert run.tries == 2, "the retry found the running job"


def test_a_run_that_is_stopped_stops_its_job(live: Platform) -> None:
    run = live.start(7, LONG)
    run.wait_training()
    live.api.mark_failed(DAG_ID, run.run_id)
    run.stopped()
    run.ends("failed")


def test_a_task_whose_row_is_deleted_stops_its_job_and_the_run_fails(live: Platform) -> None:
    """Airflow does not make the row again, and takes the task for one without instances."""
    run = live.start(8, LONG)
    run.wait_training()
    live.api.delete_task(DAG_ID, run.run_id, f"{TASK}?map_index=0")
    run.stopped()
    run.ends("failed")
    assert "Task train left no result" in run.log(AFTER)


def test_a_run_that_is_deleted_leaves_no_job(live: Platform) -> None:
    run = live.start(9, LONG)
    run.wait_training()
    live.api.mark_failed(DAG_ID, run.run_id)
    live.api.delete_run(DAG_ID, run.run_id)
    run.stopped()


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_ten_preemptions_in_a_row_use_up_no_retry(live: Platform) -> None:
    run = live.start(10, SHORT)
    for number in range(PREEMPTIONS):
        run.wait_training(more_than=number)
        supervisor = run.folder.read_supervisor()
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGTERM)
        wait_for("next attempt", lambda done=number: run.attempts == done + 2)
    run.succeeded_with_one_job(attempts=PREEMPTIONS + 1)
    assert run.tries == 1
    steps = [json.loads(line)["step"] for line in (run.folder.out_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)), "no step was trained twice"


def test_a_supervisor_that_is_killed_uses_up_no_retry(live: Platform) -> None:
    run = live.start(11, SHORT)
    run.wait_training()
    supervisor = run.folder.read_supervisor()
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    run.succeeded_with_one_job(attempts=2)
    assert run.tries == 1


def test_a_wrong_setting_fails_at_once(live: Platform) -> None:
    run = live.start(12, SHORT, learning_rate="-1")
    run.ends("failed")
    assert run.tries == 1
    assert run.folders() == []
    assert "optimiser.learning_rate" in run.log()


def test_a_diverged_run_fails_at_once_and_names_the_last_good_checkpoint(live: Platform) -> None:
    run = live.start(13, LONG, learning_rate="1e6")
    run.ends("failed")
    assert run.tries == 1
    assert "diverged" in run.log()
    assert re.search("The last good checkpoint is|It diverged before the first checkpoint", run.log())
    assert run.mlflow_runs() == ["FAILED"]


# --- candidates -------------------------------------------------------------------------------------------------------


def test_no_candidate_is_forgotten_when_events_are_merged(live: Platform) -> None:
    """Airflow hands a run the first of several queued events only; the run asks the registry for the others."""
    snapshot = publish_snapshot(live.folder, live.settings).model_dump(mode="json")
    for number in (1, 2):
        publish_evaluated_candidate(
            live.world.path, load_settings(), live.folder, snapshot=snapshot, trained_by="", number=number
        )
    workspace = Workspace(load_project(Path(live.world.path)), load_settings())
    assert awaiting_judgement(workspace) == [2, 1]
    live.api.unpause("shapes.promote")
    for version in (1, 2):
        live.api.announce("shapes.candidate", {"version": version})
    wait_for("decision on both", lambda: awaiting_judgement(workspace) == [])
    wait_for("end of the runs", lambda: {run["state"] for run in live.api.runs("shapes.promote")} == {"success"})
    live.api.pause("shapes.promote")
    assert champion.history(live.world.path) == [], "a dry run moves nothing"


# --- parts of the platform --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_triggerer_that_ends_is_restarted_and_cancels_nothing(live: Platform, number: signal.Signals) -> None:
    run = live.start(20 + number, 2 * SHORT)
    run.wait_training()
    before = live.service("triggerer").process.pid
    os.kill(before, number)
    live.restarted("triggerer", before)
    run.succeeded_with_one_job(attempts=1)
    assert run.tries == 1


def test_a_job_whose_task_was_killed_without_a_triggerer_is_swept(live: Platform) -> None:
    run = live.start(14, LONG)
    run.wait_training()
    before = live.service("triggerer").process.pid
    live.signal("triggerer", signal.SIGSTOP)
    run.set_state("failed")
    live.signal("triggerer", signal.SIGKILL)
    live.restarted("triggerer", before)
    run.ends("failed")
    assert run.job_state == "running", "Airflow deleted the trigger before anybody could call it"
    live.api.unpause("shapes.reconcile")
    sweep = live.api.trigger("shapes.reconcile")
    wait_for("sweep", lambda: live.api.state_of("shapes.reconcile", sweep, "cancel_orphans") == "success")
    live.api.pause("shapes.reconcile")
    run.stopped()


def test_tasks_survive_an_api_server_that_hangs(live: Platform) -> None:
    held = live.api.trigger("tiny.hold", {"seconds": OUTAGE_SECONDS / 2})
    run = live.start(15, SHORT)
    run.wait_training()
    wait_for("running task", lambda: live.api.state_of("tiny.hold", held, "hold") == "running")
    live.signal("api-server", signal.SIGSTOP)
    try:
        time.sleep(OUTAGE_SECONDS)
        assert run.job_state == "succeeded", "the job needs no Airflow"
    finally:
        live.signal("api-server", signal.SIGCONT)
    assert live.api.end_of("tiny.hold", held) == "success", "the task ran through it, without a retry"
    run.succeeded_with_one_job(attempts=1)


@pytest.mark.parametrize("name", ["mlflow", *services.AIRFLOW_PARTS])
def test_every_part_that_is_killed_is_restarted(live: Platform, name: str) -> None:
    before = live.service(name).process.pid
    os.kill(before, signal.SIGKILL)
    live.restarted(name, before)
    wait_for(f"sound {name}", lambda: platform_check().ok, seconds=120)


def platform_check() -> Any:
    """Return what doctor says of the platform."""
    return next(check for check in doctor.diagnose(None, load_settings()) if check.name == "platform")


def test_after_a_restart_of_the_host_the_run_goes_on(live: Platform) -> None:
    run = live.start(16, 2 * SHORT)
    run.wait_training(more_than=5)
    live.world.restart_host()
    run.api = live.api = live.world.login("ada")
    assert run.job_state == "running", "nobody was left to write another state"
    run.succeeded_with_one_job(attempts=2)
    assert run.tries == 1
