"""`plumbline jobs` on a job of the local engine, as an operator types it."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from made_requests import counting_request

from pipelines.commands import cli
from pipelines.contracts.jobs import JobHandle
from pipelines.dispatch.engines.catalogue import Local
from pipelines.dispatch.engines.local import LocalEngine
from pipelines.settings import Settings

WORKER = (sys.executable, str(Path(__file__).parents[1] / "dispatch/engines/counting_worker.py"))


@pytest.fixture
def engine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """An engine over the state folder that the commands use."""
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", settings.store_uri)
    return LocalEngine(settings, Local(grace_seconds=2), worker=WORKER)


def submit(engine: LocalEngine, count: int) -> JobHandle:
    return engine.submit(counting_request(engine.settings.store_uri, {"count": count}, timeout_seconds=50))


def wait_for(engine: LocalEngine, handle: JobHandle, state: str) -> None:
    deadline = time.monotonic() + 30
    while engine.status(handle).state != state:
        assert time.monotonic() < deadline, engine.status(handle)
        time.sleep(0.05)


@pytest.mark.slow
def test_a_running_job_is_listed_followed_and_cancelled(
    engine: LocalEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = submit(engine, 100_000)
    try:
        wait_for(engine, handle, "running")
        assert cli.main(["jobs", "list", "--active"]) == cli.DONE
        (listed,) = json.loads(capsys.readouterr().out)
        assert (listed["job_id"], listed["project"], listed["kind"]) == (handle.job_id, "count", "train")
        canceller = threading.Timer(1.0, engine.cancel, [handle])
        canceller.start()
        assert cli.main(["jobs", "log", "count-", "--follow"]) == cli.FAILED, "it did not succeed"
        canceller.join()
        assert "counting from 0" in capsys.readouterr().out
    finally:
        assert cli.main(["jobs", "cancel", "count-train-"]) == cli.DONE
    assert json.loads(capsys.readouterr().out) == {
        "job_id": handle.job_id,
        "before": "cancelled",
        "state": "cancelled",
    }


@pytest.mark.slow
def test_a_finished_job_keeps_its_log_and_is_not_cancelled(
    engine: LocalEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = submit(engine, 2)
    wait_for(engine, handle, "succeeded")
    assert cli.main(["jobs", "log", handle.job_id, "--follow"]) == cli.DONE
    assert "counting from 0\nnumber 1\nnumber 2\n" in capsys.readouterr().out
    assert cli.main(["jobs", "cancel", handle.job_id]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["state"] == "succeeded"


def test_a_job_that_does_not_exist_is_bad_input(engine: LocalEngine, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("log", "cancel"):
        assert cli.main(["jobs", command, "nothing"]) == cli.BAD_INPUT
        assert "No job of this host or of the Ray cluster begins with 'nothing'" in capsys.readouterr().err
    assert not engine.settings.state_dir.exists()
