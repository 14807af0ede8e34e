"""Parts that end are restarted with growing pauses; real processes in the place of the servers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import host
from pipelines.host import record_of
from pipelines.platform import services, supervision
from pipelines.platform.services import Platform, _Service
from pipelines.platform.supervision import Supervision
from pipelines.settings import Settings, load_settings

# Like a task of Airflow: in another group than the server, but in its session.
WITH_CHILD = (
    "import os, sys, time\n"
    "if os.fork() == 0: os.setpgid(0, 0); time.sleep(60); os._exit(0)\n"
    "print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[[str], _Service]]:
    """Start a process that stands for a server; everything is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def spawn(name: str, *_: object) -> _Service:
        env = {**os.environ, "PLUMBLINE_STATE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", WITH_CHILD]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True, env=env)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        return _Service(name=name, process=record_of(process.pid), url="", log_path=tmp_path / f"{name}.log")

    yield spawn
    for process in started:
        host.kill_session(process.pid, services._mark(settings))
        process.wait(timeout=10)
        process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture
def platform(settings: Settings, start: Callable[[str], _Service], monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setattr(services, "spawn", start)
    found = Platform(ports=(1, 2, 3, 4), services=tuple(start(name) for name in ("mlflow", "api-server", "triggerer")))
    services.write_platform(settings, found)
    return found


def pids(settings: Settings) -> dict[str, int]:
    platform = services.read_platform(settings)
    assert platform is not None
    return {service.name: service.process.pid for service in platform.services}


def kill(platform: Platform, name: str) -> int:
    pid = platform.service(name).process.pid
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while platform.service(name) not in platform.dead() and time.monotonic() < deadline:
        time.sleep(0.01)
    return pid


@pytest.mark.timeout(60)
def test_a_part_that_ended_is_restarted_without_its_leftovers_and_reported(
    platform: Platform, settings: Settings
) -> None:
    reports: list[str] = []
    watch = Supervision(settings, reports.append)
    assert watch.check()
    assert reports == []
    before = pids(settings)
    dead = kill(platform, "triggerer")
    assert host.session_pids(dead, services._mark(settings)) != [], "its task is left"
    assert watch.check()
    after = pids(settings)
    assert {name for name in before if before[name] != after[name]} == {"triggerer"}
    assert host.session_pids(dead, services._mark(settings)) == []
    [report] = reports
    assert report.startswith(f"triggerer (pid {dead}) had ended, 1 of its processes were killed; restarted as pid")
    assert report.endswith("triggerer.log")


@pytest.mark.timeout(60)
def test_the_pauses_grow_and_start_again_after_a_stable_time(
    platform: Platform, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(supervision.time, "monotonic", lambda: now)
    watch = Supervision(settings)
    restarts = []
    for _ in range(60):
        restarts.append((now, watch._may_restart("triggerer")))
        now += 0.5
    assert [at - 1000 for at, restarted in restarts if restarted] == [0, 1.5, 4, 8.5, 17]
    now += supervision.STABLE_SECONDS
    assert watch._may_restart("triggerer"), "at once"


@pytest.mark.timeout(60)
def test_a_part_that_cannot_be_started_is_reported_and_tried_again(
    platform: Platform, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> _Service:
        raise OSError("no memory")

    monkeypatch.setattr(services, "spawn", refuse)
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.0)
    reports: list[str] = []
    watch = Supervision(settings, reports.append)
    kill(platform, "mlflow")
    for _ in range(2):
        assert watch.check()
    assert reports == ["mlflow has ended and could not be restarted; it is tried again. no memory"] * 2


def test_nothing_is_restarted_once_the_platform_was_stopped(
    platform: Platform, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "STOP_TIMEOUT_SECONDS", 1)
    stopped = services.stop(settings)
    assert set(stopped) == {"mlflow", "api-server", "triggerer"}
    assert not Supervision(settings).check()


@pytest.mark.timeout(60)
def test_a_thread_restarts_parts_while_the_body_runs(
    platform: Platform, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "CHECK_SECONDS", 0.05)
    reports: list[str] = []
    with supervision.running(settings, reports.append):
        kill(platform, "mlflow")
        deadline = time.monotonic() + 20
        while not reports and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(reports) == 1
