"""Behaviour of the local engine only; test_contract.py tests what every engine does."""

import sys
from pathlib import Path

import pytest
from made_requests import made_request

from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus
from pipelines.dispatch.engines.local import LocalEngine
from pipelines.dispatch.job_folder import JobFolder
from pipelines.host import record_of
from pipelines.settings import Settings, load_settings

pytestmark = pytest.mark.timeout(60)

HANDLE = JobHandle(engine="local", job_id="words-train-aaaaaaaaaaaa-g0")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    state = {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    return load_settings(state)


@pytest.fixture
def folder(settings: Settings) -> JobFolder:
    folder = JobFolder(settings.state_dir / "jobs" / HANDLE.job_id)
    folder.work_dir.mkdir(parents=True)
    return folder


def make_request(settings: Settings) -> JobRequest:
    return made_request(settings.store_uri)


def test_the_real_worker_runs_by_default(settings: Settings) -> None:
    command = LocalEngine(settings)._worker
    assert command == (sys.executable, "-m", "pipelines.dispatch.worker")


def test_a_recycled_pid_is_not_taken_for_the_supervisor(settings: Settings, folder: JobFolder) -> None:
    import os

    folder.write_status(JobStatus(state="running", attempt=1))
    me = record_of(os.getpid())
    folder.write_supervisor(me)
    assert LocalEngine(settings).status(HANDLE).state == "running"
    folder.write_supervisor(me.model_copy(update={"started_ticks": me.started_ticks - 1}))
    assert LocalEngine(settings).status(HANDLE).state == "lost"


def test_a_job_whose_supervisor_is_still_starting_is_pending_for_a_while(settings: Settings, folder: JobFolder) -> None:
    import os

    folder.write_status(JobStatus(state="pending", attempt=1))
    assert LocalEngine(settings).status(HANDLE).state == "pending"
    os.utime(folder.path / "status.json", (0, 0))
    assert LocalEngine(settings).status(HANDLE).state == "lost"


def test_a_worker_that_cannot_be_started_fails_with_the_reason(settings: Settings) -> None:
    import time

    engine = LocalEngine(settings, worker=("/nowhere/worker",))
    handle = engine.submit(make_request(settings))
    deadline = time.monotonic() + 20
    while engine.status(handle).state in {"pending", "running"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status = engine.status(handle)
    assert (status.state, status.failure_kind) == ("failed", "crashed")
    assert "/nowhere/worker" in status.message


def test_a_state_folder_that_cannot_be_used_is_an_error_at_once(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(OSError, match="state"):
        LocalEngine(settings).submit(make_request(settings))


@pytest.mark.parametrize("job_id", ["../other", "a/b", "", "a b", ".."])
def test_a_job_id_cannot_leave_the_jobs_folder(settings: Settings, job_id: str) -> None:
    with pytest.raises(ValueError, match="is not valid"):
        LocalEngine(settings).status(JobHandle(engine="local", job_id=job_id))


def test_the_log_location_names_the_latest_attempt(settings: Settings, folder: JobFolder) -> None:
    folder.write_status(JobStatus(state="failed", attempt=3))
    assert LocalEngine(settings).log_location(HANDLE) == str(folder.path / "attempt-3.log")
