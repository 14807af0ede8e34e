"""Claims of jobs in a real store, on the real engine of this host with a worker that only waits."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_requests import made_request

from pipelines.contracts.jobs import JobHandle
from pipelines.dispatch import claims, jobs
from pipelines.dispatch.claims import JobClaim
from pipelines.dispatch.engines.local import LocalEngine
from pipelines.settings import Settings
from pipelines.tracking import runs

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def engine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    engine = LocalEngine(settings, worker=SLEEP)
    monkeypatch.setattr(jobs, "open_engine", lambda _name, _settings: engine)
    yield engine
    for path in (settings.state_dir / "jobs").glob("*"):
        engine.cancel(JobHandle(engine="local", job_id=path.name))


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """MLflow runs that were closed, with their state."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(runs, "finish_run", lambda _settings, run_id, status: found.append((run_id, status)))
    return found


def submit(engine: LocalEngine, settings: Settings) -> JobHandle:
    request = made_request(settings.store_uri)
    handle = engine.submit(request)
    deadline = time.monotonic() + 30
    while engine.status(handle).state != "running" and time.monotonic() < deadline:
        time.sleep(0.02)
    return handle


def claim(handle: JobHandle, try_id: str) -> JobClaim:
    task = {"dag_id": "words.train", "run_id": "1", "task_id": "train", "map_index": 0}
    return JobClaim(project="words", engine="local", job_id=handle.job_id, try_id=try_id, tracking_run_id="r", **task)


def test_the_last_try_alone_may_cancel(engine: LocalEngine, settings: Settings, closed: list[tuple[str, str]]) -> None:
    handle = submit(engine, settings)
    first, second = claim(handle, "1"), claim(handle, "2")
    claims.take(first, settings)
    claims.take(second, settings)
    assert not claims.cancel_claimed(first, settings)
    assert (engine.status(handle).state, closed) == ("running", [])
    claims.release(first, settings)
    assert claims.cancel_claimed(second, settings), "the release by an earlier try changed nothing"
    assert (engine.status(handle).state, closed) == ("cancelled", [("r", "KILLED")])
    assert not claims.cancel_claimed(second, settings), "the claim is gone"


def test_a_later_try_knows_that_the_job_was_cancelled_for_an_earlier_one(
    engine: LocalEngine, settings: Settings, closed: list[tuple[str, str]]
) -> None:
    handle = submit(engine, settings)
    first, second = claim(handle, "1"), claim(handle, "2")
    assert not claims.cancelled_for_another(second, 1, settings)
    claims.take(first, settings)
    claims.cancel_claimed(first, settings)
    assert claims.cancelled_for_another(second, 1, settings)
    assert not claims.cancelled_for_another(first, 1, settings), "its own"
    assert not claims.cancelled_for_another(second, 2, settings), "a later attempt was cancelled by somebody else"


def test_orphans_are_stopped_and_claims_of_finished_jobs_deleted(
    engine: LocalEngine, settings: Settings, closed: list[tuple[str, str]]
) -> None:
    handle = submit(engine, settings)
    claims.take(claim(handle, "1"), settings)
    claims.take(claim(JobHandle(engine="local", job_id="words-train-gone-g0"), "1"), settings)
    assert claims.cancel_orphans("words", settings, lambda _: True) == []
    assert claims.cancel_orphans("words", settings, lambda _: False) == [handle.job_id]
    assert engine.status(handle).state == "cancelled"
    assert list(Path(settings.store_uri.removeprefix("file://")).glob("claims/words/*.json")) == []


def test_a_job_that_ends_with_the_platform_is_preempted(engine: LocalEngine, settings: Settings) -> None:
    """An Airflow task that waits for it submits it again; after a cancel it would fail."""
    handle = submit(engine, settings)
    engine.preempt(handle)
    assert engine.status(handle).state == "preempted"
    engine.preempt(handle)
    assert engine.status(handle).attempt == 1
