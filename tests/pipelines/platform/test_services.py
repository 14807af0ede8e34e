"""Ports and processes of the embedded platform; real sockets, real processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.host import record_of
from pipelines.platform import services
from pipelines.platform.services import Platform, _Service
from pipelines.settings import Settings, load_settings

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})


def service_of(process: subprocess.Popen[str], tmp_path: Path, name: str = "airflow") -> _Service:
    record = record_of(process.pid)
    return _Service(name=name, process=record, url="http://127.0.0.1:1", log_path=tmp_path / "log")


def sleeper(code: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def test_taken_port_is_refused_by_name(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"Port {port} on 127\.0\.0\.1 is in use.*give another port"):
            services.start(settings, mlflow_port=port)
    assert not (settings.state_dir / "services.json").exists()


def test_free_ports_are_distinct_and_bindable() -> None:
    ports = services._free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


@pytest.mark.timeout(60)
def test_stop_ends_a_whole_group_that_ignores_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "STOP_TIMEOUT_SECONDS", 1)
    process = sleeper(STUBBORN)
    try:
        assert services._stop_service(service_of(process, tmp_path))
        assert process.wait(timeout=10) == -signal.SIGKILL
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.timeout(60)
def test_a_recycled_pid_is_left_alone(tmp_path: Path, settings: Settings) -> None:
    process = sleeper("import time; print('ready', flush=True); time.sleep(60)")
    try:
        older = record_of(process.pid).model_copy(update={"started_ticks": 1})
        stranger = service_of(process, tmp_path).model_copy(update={"process": older})
        gone = stranger.model_copy(update={"name": "mlflow"})
        (settings.state_dir / "services.json").write_text(Platform(mlflow=gone, airflow=stranger).model_dump_json())
        assert services.stop(settings) == []
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_second_start_names_the_address_of_the_first(tmp_path: Path, settings: Settings) -> None:
    me = _Service(
        name="airflow",
        process=record_of(os.getpid()),
        url="http://127.0.0.1:4242",
        log_path=tmp_path / "log",
    )
    (settings.state_dir / "services.json").write_text(Platform(mlflow=me, airflow=me).model_dump_json())
    with pytest.raises(ValueError, match=r"already running \(Airflow http://127.0.0.1:4242"):
        services.start(settings)


def test_airflow_is_bound_to_loopback_without_examples(settings: Settings) -> None:
    environment = services._airflow_environment(settings, [1, 2, 3, 4], mlflow_url="http://127.0.0.1:9")
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"
    assert environment["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] == "1", "else an early answer to a question is lost"
