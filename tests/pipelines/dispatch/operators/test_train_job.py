"""The operator and its trigger over a fake engine; the trigger is driven by asyncio."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus, LogChunk, TrackingTarget
from pipelines.dispatch import claims, jobs
from pipelines.dispatch.claims import JobClaim
from pipelines.dispatch.operators import train_job
from pipelines.dispatch.operators.train_job import TrainJobOperator, TrainJobTrigger, retry_policy
from pipelines.records.jobs import starters
from pipelines.settings import load_settings
from pipelines.store.storage import open_store
from pipelines.tracking import pages
from pipelines.tracking import runs as tracking_runs

DIGEST = "a" * 64
HANDLE = JobHandle(engine="fake", job_id="words-train-aaaaaaaaaaaa-g0")


class FakeEngine:
    """An engine whose job goes through the given states, one per status request."""

    def __init__(self) -> None:
        self.states: list[str] = ["running", "running", "succeeded"]
        self.failure_kind: Any = ""
        self.lines = ["line 1", "line 2", "line 3"]
        self.submitted: list[JobRequest] = []
        self.cancelled: list[JobHandle] = []
        self.attempt, self.done, self.failures = 1, 0, 0

    def submit(self, request: JobRequest) -> JobHandle:
        self.submitted.append(request)
        return HANDLE

    def status(self, handle: JobHandle) -> JobStatus:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no response")
        state: Any = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        progress = {"progress_done": self.done, "progress_total": 9}
        return JobStatus(
            state=state, attempt=self.attempt, failure_kind=self.failure_kind, message="because", **progress
        )

    def logs(self, handle: JobHandle, cursor: int) -> LogChunk:
        return LogChunk(lines=tuple(self.lines[cursor : cursor + 2]), cursor=min(cursor + 2, len(self.lines)))

    def log_location(self, handle: JobHandle) -> str:
        return "/logs/attempt-1.log"

    def cancel(self, handle: JobHandle) -> None:
        self.cancelled.append(handle)

    def result(self, handle: JobHandle) -> dict[str, Any]:
        return {"steps": 3}


class FakeTracking:
    """The part of tracking that the operator uses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parents: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.finished: list[tuple[str, str]] = []
        monkeypatch.setattr(tracking_runs, "parent_run", lambda _settings, **given: self.parents.append(given))
        monkeypatch.setattr(tracking_runs, "job_run", self.job_run)
        monkeypatch.setattr(tracking_runs, "finish_run", lambda _settings, *given: self.finished.append(given))

    def job_run(self, _settings: object, **given: Any) -> TrackingTarget:
        self.jobs.append(given)
        return TrackingTarget(run_id="run-1")


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("PLUMBLINE_AIRFLOW_UI_URL", "http://airflow")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    engine = FakeEngine()
    for module in (train_job, jobs):
        monkeypatch.setattr(module, "open_engine", lambda _name, _settings: engine)
    return engine


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeTracking:
    return FakeTracking(monkeypatch)


def build_request(
    path: str, stage: str, given: dict[str, Any], *, overrides: tuple[str, ...] = (), generation: int = 0
) -> JobRequest:
    """Replace stages.job_request."""
    return made_request(
        spec={"path": path, "stage": stage, "given": given, "overrides": list(overrides)},
        spec_digest=DIGEST,
        output_uri=open_store(load_settings().store_uri).uri("models", f"{DIGEST}.g{generation}"),
        placement=Placement(engine="fake"),
        generation=generation,
    )


def claim_of(try_id: str) -> JobClaim:
    task = {"dag_id": "words.train", "run_id": "manual__1", "task_id": "train", "map_index": -1}
    names = {"project": "words", "engine": "fake", "job_id": HANDLE.job_id, "tracking_run_id": "run-1"}
    return JobClaim(**names, **task, try_id=try_id)


def claimed_by() -> str | None:
    """Try that holds the claim of the job."""
    uri = open_store(load_settings().store_uri).uri("claims", "words", f"{HANDLE.job_id}.json")
    store = open_store(load_settings().store_uri)
    return str(json.loads(store.read_bytes(uri))["try_id"]) if store.exists(uri) else None


def operator(**changes: Any) -> TrainJobOperator:
    given = {
        "project_path": "p.toml",
        "stage": "train",
        "given": {"cache": 1},
        "request_builder": "here:build",
        **changes,
    }
    return TrainJobOperator(task_id="train", **given)


@pytest.fixture(autouse=True)
def _builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_job, "resolve", {"here:build": build_request}.__getitem__)


def context(*, try_id: str = "try-1", **changes: Any) -> Any:
    run = SimpleNamespace(dag_id="words.train", run_id="manual__1", triggering_user_name=None)
    return {"params": {}, "dag_run": run, "task_state_store": State(), "ti": TaskInstance(try_id), **changes}


class TaskInstance:
    """The part of a running task instance that the operator uses."""

    dag_id, run_id, task_id, map_index = "words.train", "manual__1", "train", -1

    def __init__(self, try_id: str) -> None:
        self.id = try_id
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class State:
    def __init__(self) -> None:
        self.rows: dict[str, tuple[Any, Any]] = {}

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.rows[key] = (value, retention)


def test_execute_submits_and_defers_with_ids_only(engine: FakeEngine, runs: FakeTracking) -> None:
    given = context()
    with pytest.raises(TaskDeferred) as deferred:
        operator().execute(given)
    path, kwargs = deferred.value.trigger.serialize()
    assert path == "pipelines.dispatch.operators.train_job.TrainJobTrigger"
    assert json.loads(json.dumps(kwargs)) == {
        "engine": "fake",
        "job_id": HANDLE.job_id,
        "poll_seconds": 5.0,
        "claim": claim_of("try-1").model_dump(),
        "cursor": 0,
        "resubmit_seconds": 10.0,
    }
    assert deferred.value.method_name == "execute_complete"
    kept = {"run_id": "run-1", "project": "words", "interruptions": 0, "furthest": 0}
    kept["title"] = "train words aaaaaaaaaaaa"
    assert given["job_name"] == kept["title"]
    assert json.loads(json.dumps(deferred.value.kwargs)) == kept
    assert given["ti"].pushed == {"output_uri": build_request("p.toml", "train", {}).output_uri}
    assert given["task_state_store"].rows == {"job_id": (HANDLE.job_id, NEVER_EXPIRE)}
    assert engine.submitted[0].tracking == TrackingTarget(run_id="run-1")
    assert engine.submitted[0].spec == {"path": "p.toml", "stage": "train", "given": {"cache": 1}, "overrides": []}


def test_the_runs_are_keyed_by_the_dag_run_and_link_to_it(engine: FakeEngine, runs: FakeTracking) -> None:
    with pytest.raises(TaskDeferred):
        operator().execute(context())
    assert runs.parents[0]["key"] == "words.train/manual__1"
    assert runs.parents[0]["tags"] == {
        "airflow.dag_id": "words.train",
        "airflow.run_id": "manual__1",
        "airflow.ui_url": "http://airflow/dags/words.train/runs/manual__1",
    }
    assert runs.jobs[0]["parent_key"] == "words.train/manual__1"
    assert runs.jobs[0]["request_job_id"] == HANDLE.job_id
    assert runs.jobs[0]["config"]["spec"]["stage"] == "train"


def test_the_job_records_the_user_who_triggered_the_run(engine: FakeEngine, runs: FakeTracking) -> None:
    store = open_store(load_settings().store_uri)
    for person, known in ((None, []), ("ada", ["ada"])):
        given = context()
        given["dag_run"].triggering_user_name = person
        with pytest.raises(TaskDeferred):
            operator().execute(given)
        assert starters(store, "words", "train", DIGEST) == known


def test_the_run_is_linked_as_soon_as_the_job_is_submitted(
    engine: FakeEngine, runs: FakeTracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "run_page", lambda _settings, run_id: f"http://mlflow/#/runs/{run_id}")
    given = context()
    with pytest.raises(TaskDeferred):
        operator().execute(given)
    assert given["ti"].pushed["_link_mlflow_run"] == "http://mlflow/#/runs/run-1"
    resumed, event = context(), {"engine": "fake", "job_id": HANDLE.job_id, "state": "succeeded"}
    engine.states = ["succeeded"]
    operator().execute_complete(resumed, event, run_id="run-1", title="dpo")
    assert resumed["job_name"] == "dpo", "Airflow renders the name again when the task ends"


def test_a_result_in_the_store_is_returned_at_once(engine: FakeEngine, runs: FakeTracking, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights").write_text("w")
    request = build_request("p.toml", "train", {})
    open_store(load_settings().store_uri).publish_folder(tmp_path / "out", request.output_uri, {"steps": 7})
    assert operator().execute(context()) == {"steps": 7}
    assert engine.submitted == []
    assert runs.jobs == []


def test_the_generation_comes_from_the_dag_run_unless_given(engine: FakeEngine, runs: FakeTracking) -> None:
    for task, params in ((operator(), {"generation": 2}), (operator(generation="3"), {"generation": 2})):
        with pytest.raises(TaskDeferred):
            task.execute(context(params=params))
    assert [request.generation for request in engine.submitted] == [2, 3]


def test_overrides_reach_the_request(engine: FakeEngine, runs: FakeTracking) -> None:
    with pytest.raises(TaskDeferred):
        operator(overrides=["seed=1"]).execute(context())
    assert engine.submitted[0].spec["overrides"] == ["seed=1"]


def test_execute_complete_returns_the_value_object(engine: FakeEngine, runs: FakeTracking) -> None:
    engine.states = ["succeeded"]
    event = {"engine": "fake", "job_id": HANDLE.job_id, "state": "succeeded"}
    assert operator().execute_complete(context(), event, run_id="run-1") == {"steps": 3}
    assert runs.finished == []


@pytest.mark.parametrize(
    ("state", "kind", "error", "action", "ending"),
    [
        ("failed", "bad_input", jobs.ConfigError, RetryAction.FAIL, "FAILED"),
        ("failed", "bad_data", jobs.DataError, RetryAction.FAIL, "FAILED"),
        ("failed", "diverged", jobs.Diverged, RetryAction.FAIL, "FAILED"),
        ("failed", "storage_full", jobs.StorageFull, RetryAction.RETRY, "FAILED"),
        ("failed", "out_of_memory", jobs.OutOfMemory, RetryAction.FAIL, "FAILED"),
        ("failed", "crashed", jobs.JobCrashed, RetryAction.RETRY, "FAILED"),
        ("cancelled", "", jobs.JobCancelled, RetryAction.FAIL, "KILLED"),
    ],
)
def test_each_failure_has_its_error_and_its_retry_rule(
    engine: FakeEngine, runs: FakeTracking, state: str, kind: str, error: type[Exception], action: Any, ending: str
) -> None:
    engine.states, engine.failure_kind = [state], kind
    event = {"engine": "fake", "job_id": HANDLE.job_id, "state": state}
    with pytest.raises(error) as raised:
        operator().execute_complete(context(), event, run_id="run-1", project="words")
    assert type(raised.value) is error
    for part in (kind or state, HANDLE.job_id, "because", "line 3", "/logs/attempt-1.log"):
        assert part in str(raised.value)
    assert runs.finished == [("run-1", ending)]
    assert retry_policy().evaluate(raised.value, try_number=1, max_tries=3).action == action


def test_the_retry_rules_survive_dag_serialisation() -> None:
    policy = type(retry_policy()).deserialize(json.loads(json.dumps(retry_policy().serialize())))
    assert policy.evaluate(jobs.ConfigError("x"), try_number=1, max_tries=3).action == RetryAction.FAIL
    assert policy.evaluate(jobs.Preempted("x"), try_number=1, max_tries=3).action == RetryAction.RETRY


def complete(state: str, *, done: int = 0, try_id: str = "try-1", **kept: Any) -> dict[str, Any]:
    """Resume a task whose job has ended; return what the task keeps when it defers again."""
    event = {"engine": "fake", "job_id": HANDLE.job_id, "state": state, "cursor": 3}
    with pytest.raises(TaskDeferred) as deferred:
        operator().execute_complete(context(try_id=try_id), event, run_id="run-1", project="words", **kept)
    assert deferred.value.trigger.serialize()[1]["cursor"] == 3, "the log is not shown again"
    return dict(deferred.value.kwargs or {})


@pytest.mark.parametrize(("state", "limit"), [("preempted", 50), ("lost", 5), ("unknown", 5)])
def test_an_interrupted_job_is_submitted_again_until_it_makes_no_progress(
    engine: FakeEngine, runs: FakeTracking, state: str, limit: int
) -> None:
    engine.states, engine.failure_kind = [state], "preempted" if state == "preempted" else ""
    kept: dict[str, Any] = {"interruptions": 0, "furthest": 0}
    for number in range(1, limit + 1):
        kept = complete(state, interruptions=kept["interruptions"], furthest=kept["furthest"])
        assert kept["interruptions"] == number
    engine.done = 7
    kept = complete(state, interruptions=limit, furthest=6)
    assert (kept["interruptions"], kept["furthest"]) == (1, 7), "progress resets the count"
    assert len(engine.submitted) == limit + 1
    event = {"engine": "fake", "job_id": HANDLE.job_id, "state": state}
    with pytest.raises(jobs.JobError) as raised:
        operator().execute_complete(context(), event, "run-1", "words", interruptions=limit, furthest=7)
    assert retry_policy().evaluate(raised.value, try_number=1, max_tries=3).action == RetryAction.RETRY
    assert runs.finished == [("run-1", "KILLED" if state == "preempted" else "FAILED")]
    assert claimed_by() is None


def test_an_interrupted_job_of_a_changed_project_is_left_to_a_retry(engine: FakeEngine, runs: FakeTracking) -> None:
    engine.states = ["preempted"]
    event = {"engine": "fake", "job_id": "words-train-bbbbbbbbbbbb-g0", "state": "preempted"}
    with pytest.raises(jobs.Preempted):
        operator().execute_complete(context(), event, run_id="run-1", project="words")
    assert engine.submitted == []


def test_a_job_cancelled_for_an_earlier_try_is_submitted_again(engine: FakeEngine, runs: FakeTracking) -> None:
    """The trigger of a cleared task was stopped after the next try had reattached to the job."""
    first, second = claim_of("try-1"), claim_of("try-2")
    claims.take(first, load_settings())
    assert claims.cancel_claimed(first, load_settings())
    claims.take(second, load_settings())
    engine.states = ["cancelled"]
    complete("cancelled", try_id="try-2")
    assert len(engine.submitted) == 1
    engine.attempt = 2
    event = {"engine": "fake", "job_id": HANDLE.job_id, "state": "cancelled"}
    with pytest.raises(jobs.JobCancelled):
        operator().execute_complete(context(try_id="try-2"), event, run_id="run-1", project="words")


def test_a_wrong_specification_fails_without_a_retry(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> JobRequest:
        raise ValueError("optimiser.learning_rate must be positive")

    monkeypatch.setattr(train_job, "resolve", {"here:build": refuse}.__getitem__)
    with pytest.raises(jobs.ConfigError, match="learning_rate must be positive") as raised:
        operator().execute(context())
    assert retry_policy().evaluate(raised.value, try_number=1, max_tries=3).action == RetryAction.FAIL


def test_on_kill_of_the_task_cancels_the_job_it_submitted(engine: FakeEngine, runs: FakeTracking) -> None:
    task = operator()
    task.on_kill()
    assert engine.cancelled == []
    with pytest.raises(TaskDeferred):
        task.execute(context())
    assert claimed_by() == "try-1"
    task.on_kill()
    assert engine.cancelled == [HANDLE]
    assert runs.finished == [("run-1", "KILLED")]
    assert claimed_by() is None


def test_a_finished_result_releases_the_claim(engine: FakeEngine, runs: FakeTracking) -> None:
    claims.take(claim_of("try-1"), load_settings())
    engine.states = ["succeeded"]
    event = {"engine": "fake", "job_id": HANDLE.job_id, "state": "succeeded"}
    operator().execute_complete(context(), event, run_id="run-1", project="words")
    assert claimed_by() is None


def fire(trigger: TrainJobTrigger) -> list[Any]:
    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(events(), timeout=10))


def test_the_trigger_fires_once_at_the_end_and_shows_each_log_line_once(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    trigger = TrainJobTrigger("fake", HANDLE.job_id, poll_seconds=0.01)
    assert fire(trigger) == [{"engine": "fake", "job_id": HANDLE.job_id, "state": "succeeded", "cursor": 3}]
    shown = capsys.readouterr().out
    assert [shown.count(line) for line in engine.lines] == [1, 1, 1]


@pytest.mark.parametrize("state", ["failed", "preempted", "cancelled", "lost", "unknown"])
def test_the_trigger_fires_for_every_ending(engine: FakeEngine, state: str) -> None:
    engine.states = ["running", state]
    trigger = TrainJobTrigger("fake", HANDLE.job_id, poll_seconds=0.01, resubmit_seconds=0.01)
    assert fire(trigger)[0]["state"] == state


def test_a_rebuilt_trigger_is_the_same(engine: FakeEngine) -> None:
    claim = claim_of("try-1").model_dump(mode="json")
    trigger = TrainJobTrigger("fake", HANDLE.job_id, poll_seconds=0.5, claim=claim, cursor=7, resubmit_seconds=2.0)
    path, kwargs = trigger.serialize()
    assert TrainJobTrigger(**kwargs).serialize() == (path, kwargs)


def test_on_kill_of_the_trigger_cancels_and_its_cleanup_does_not(engine: FakeEngine) -> None:
    trigger = TrainJobTrigger("fake", HANDLE.job_id)
    asyncio.run(trigger.cleanup())
    assert engine.cancelled == []
    asyncio.run(trigger.on_kill())
    assert engine.cancelled == [HANDLE]


def test_on_kill_of_an_earlier_try_leaves_the_job_to_the_later_one(engine: FakeEngine, runs: FakeTracking) -> None:
    claims.take(claim_of("try-2"), load_settings())
    for try_id, cancelled in (("try-1", []), ("try-2", [HANDLE])):
        trigger = TrainJobTrigger("fake", HANDLE.job_id, claim=claim_of(try_id).model_dump(mode="json"))
        asyncio.run(trigger.on_kill())
        assert engine.cancelled == cancelled
    assert runs.finished == [("run-1", "KILLED")]


def test_an_engine_that_does_not_respond_is_asked_again(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.failures = 2
    trigger = TrainJobTrigger("fake", HANDLE.job_id, poll_seconds=0.01)
    assert fire(trigger)[0]["state"] == "succeeded"
    monkeypatch.setattr(train_job, "UNREACHABLE_SECONDS", 0.0)
    engine.failures = 2
    with pytest.raises(ConnectionError):
        fire(trigger)


def test_a_cancelled_poll_leaves_the_job_alone(engine: FakeEngine) -> None:
    async def restart_of_the_triggerer() -> None:
        engine.states = ["running"]
        trigger = TrainJobTrigger("fake", HANDLE.job_id, poll_seconds=0.01)
        running = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await trigger.cleanup()

    asyncio.run(restart_of_the_triggerer())
    assert engine.cancelled == []


@pytest.mark.timeout(60)
def test_importing_the_operator_loads_nothing_heavy() -> None:
    heavy = "boto3 botocore mlflow pandas pyarrow torch diffusers transformers great_expectations numpy PIL"
    code = (
        f"import sys, pipelines.dispatch.operators.train_job; print([m for m in {heavy.split()} if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=50)
    assert done.stdout.strip() == "[]"
