"""Lost runs are found on a real server with real jobs; the run of a job that is alive is never closed."""

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobHandle, JobRequest, TrackingTarget
from pipelines.dispatch import jobs, sweeper
from pipelines.dispatch.engines.local import LocalEngine
from pipelines.dispatch.job_folder import JobFolder
from pipelines.dispatch.job_titles import job_title
from pipelines.dispatch.sweeper import close_lost_runs, find_lost_runs
from pipelines.host import kill_marked
from pipelines.settings import Settings
from pipelines.tracking import open_runs, runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER = (sys.executable, str(Path(__file__).parent / "engines" / "counting_worker.py"))


@pytest.fixture
def project() -> str:
    return f"p{uuid.uuid4().hex[:8]}"


@pytest.fixture
def engine(tracked: Settings) -> Iterator[LocalEngine]:
    """An engine whose jobs count, and end with the test."""
    yield LocalEngine(tracked, worker=WORKER)
    for path in (tracked.state_dir / "jobs").glob("*"):
        kill_marked(path)


def make_request(settings: Settings, project: str, count: int, *, key: str = "", engine: str = "local") -> JobRequest:
    """The request of a job with its MLflow run, under the DAG run `key`."""
    request = made_request(
        project=project,
        spec={"count": count},
        spec_digest=uuid.uuid4().hex * 2,
        output_uri=f"{settings.store_uri}/models/{uuid.uuid4().hex}",
        placement=Placement(engine=engine),
    )
    return jobs.track(request, settings, key or f"{project}.by_hand")


def wait_for(engine: LocalEngine, handle: JobHandle, state: str) -> None:
    deadline = time.monotonic() + 30
    while engine.status(handle).state != state:
        assert time.monotonic() < deadline, engine.status(handle)
        time.sleep(0.05)


def run_of(settings: Settings, request: JobRequest) -> Any:
    assert isinstance(request.tracking, TrackingTarget)
    with runs.connect(settings.tracking_uri) as client:
        return client.get_run(request.tracking.run_id)


def lost_jobs(project: str, settings: Settings, state: str | None = None) -> list[str]:
    found = find_lost_runs(project, settings, lambda _dag_id, _run_id: state)
    return [own.run.job_id for own in found if own.run.job_id]


def test_a_job_that_runs_keeps_its_run_and_a_killed_one_does_not(
    tracked: Settings, project: str, engine: LocalEngine
) -> None:
    request = make_request(tracked, project, 1000)
    handle = engine.submit(request)
    wait_for(engine, handle, "running")
    assert find_lost_runs(project, tracked, lambda *_: "failed") == []

    folder = JobFolder(tracked.state_dir / "jobs" / request.job_id)
    supervisor = folder.read_supervisor()
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    kill_marked(folder.path)
    wait_for(engine, handle, "lost")
    closed = close_lost_runs(project, tracked, lambda *_: None)
    assert [(own.run.job_id, own.status, own.reason) for own in closed] == [
        (request.job_id, "FAILED", "The job is lost."),
        ("", "FINISHED", "No job of it is running."),
    ]
    assert run_of(tracked, request).info.status == "FAILED"
    assert close_lost_runs(project, tracked, lambda *_: None) == []

    again = jobs.track(request, tracked, f"{project}.by_hand")
    assert again.tracking == request.tracking
    assert run_of(tracked, request).info.status == "RUNNING"


def test_a_job_that_starts_while_its_run_is_closed_has_an_open_run(
    tracked: Settings, project: str, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(tracked, project, 1000)
    handle = engine.submit(request)
    wait_for(engine, handle, "running")
    folder = JobFolder(tracked.state_dir / "jobs" / request.job_id)
    kill_marked(folder.path)
    wait_for(engine, handle, "lost")
    close = open_runs.close_lost_run

    def close_late(*arguments: Any) -> None:
        engine.submit(request)
        wait_for(engine, handle, "running")
        close(*arguments)

    monkeypatch.setattr(open_runs, "close_lost_run", close_late)
    assert [own.run.job_id for own in close_lost_runs(project, tracked, lambda *_: None) if own.run.job_id] == []
    run = run_of(tracked, request)
    assert run.info.status == "RUNNING"
    assert open_runs.CLOSED_TAG not in run.data.tags


def test_the_status_is_that_of_the_job(tracked: Settings, project: str, engine: LocalEngine) -> None:
    done, stopped = make_request(tracked, project, 1), make_request(tracked, project, 1000)
    handles = [engine.submit(request) for request in (done, stopped)]
    wait_for(engine, handles[0], "succeeded")
    wait_for(engine, handles[1], "running")
    engine.cancel(handles[1])
    close_lost_runs(project, tracked, lambda *_: None)
    assert run_of(tracked, done).info.status == "FINISHED"
    assert run_of(tracked, stopped).info.status == "KILLED"


def test_a_job_that_was_never_submitted_is_lost_after_a_while(
    tracked: Settings, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(tracked, project, 1)
    assert lost_jobs(project, tracked) == []
    monkeypatch.setattr(sweeper, "TIME_TO_SUBMIT", timedelta(0))
    assert lost_jobs(project, tracked) == [request.job_id]


def test_a_job_of_another_host_is_lost_only_when_its_dag_run_has_ended(
    tracked: Settings, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "TIME_TO_SUBMIT", timedelta(0))
    elsewhere = tracked.model_copy(update={"state_dir": Path("/another/host")})
    request = make_request(elsewhere, project, 1, key=f"{project}.train/manual__1")
    for state in (None, "running", "queued"):
        assert lost_jobs(project, tracked, state) == []
    for state in ("success", "failed"):
        assert lost_jobs(project, tracked, state) == [request.job_id]


def test_an_engine_that_does_not_answer_leaves_the_run_open(
    tracked: Settings, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "TIME_TO_SUBMIT", timedelta(0))
    make_request(tracked, project, 1, engine="unknown_to_this_release")
    assert lost_jobs(project, tracked, "failed") == []


@pytest.mark.parametrize(("state", "status"), [("success", "FINISHED"), ("failed", "FAILED")])
def test_the_run_of_a_dag_run_ends_with_it_once_no_job_of_it_runs(
    tracked: Settings, project: str, engine: LocalEngine, state: str, status: str
) -> None:
    key = f"{project}.train/manual__1"
    request = make_request(tracked, project, 1000, key=key)
    asked: list[tuple[str, str]] = []

    def dag_run_state(dag_id: str, run_id: str) -> str:
        asked.append((dag_id, run_id))
        return state

    handle = engine.submit(request)
    wait_for(engine, handle, "running")
    assert close_lost_runs(project, tracked, dag_run_state) == []
    assert asked == []
    engine.cancel(handle)
    assert [(own.run.name, own.status) for own in close_lost_runs(project, tracked, dag_run_state)] == [
        (job_title(request), "KILLED"),
        (runs._run_name(key), status),
    ]
    assert asked == [(f"{project}.train", "manual__1")]


def test_an_airflow_that_does_not_answer_leaves_the_run_open(tracked: Settings, project: str) -> None:
    def refuse(_dag_id: str, _run_id: str) -> str:
        raise RuntimeError("500")

    key = f"{project}.promote/manual__1"
    runs.parent_run(tracked, project=project, key=key, tags=runs.airflow_tags(tracked, key))
    assert find_lost_runs(project, tracked, refuse) == []
    assert find_lost_runs(project, tracked, lambda *_: "running") == []
    assert len(find_lost_runs(project, tracked, lambda *_: "failed")) == 1
