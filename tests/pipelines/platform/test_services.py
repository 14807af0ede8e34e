"""Ports and processes of the embedded platform; real sockets, real processes."""

import json
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
from pipelines.settings import CONTROL_PLANE_ONLY, Settings, load_settings

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})


def service_of(process: subprocess.Popen[str], tmp_path: Path, name: str = "api-server") -> _Service:
    record = record_of(process.pid)
    return _Service(name=name, process=record, url="http://127.0.0.1:1", log_path=tmp_path / "log")


def platform_of(*found: _Service) -> Platform:
    return Platform(ports=(1, 2, 3, 4), services=found)


def sleeper(code: str, state_dir: Path) -> "subprocess.Popen[str]":
    env = {**os.environ, "PLUMBLINE_STATE_DIR": str(state_dir)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True, env=env
    )
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


@pytest.mark.timeout(60)
def test_stop_ends_a_whole_group_that_ignores_sigterm(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "STOP_TIMEOUT_SECONDS", 1)
    process = sleeper(STUBBORN, tmp_path)
    try:
        assert services._stop_services([service_of(process, tmp_path)], settings) == ["api-server"]
        assert process.wait(timeout=10) == -signal.SIGKILL
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.timeout(60)
def test_a_recycled_pid_is_left_alone(tmp_path: Path, settings: Settings) -> None:
    process = sleeper("import time; print('ready', flush=True); time.sleep(60)", tmp_path / "another platform")
    try:
        older = record_of(process.pid).model_copy(update={"started_ticks": 1})
        stranger = service_of(process, tmp_path).model_copy(update={"process": older})
        gone = stranger.model_copy(update={"name": "mlflow"})
        services.write_platform(settings, platform_of(gone, stranger))
        assert services.stop(settings) == []
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_second_start_names_the_address_of_the_first(tmp_path: Path, settings: Settings) -> None:
    me = _Service(
        name="api-server",
        process=record_of(os.getpid()),
        url="http://127.0.0.1:4242",
        log_path=tmp_path / "log",
    )
    services.write_platform(settings, platform_of(me.model_copy(update={"name": "mlflow"}), me))
    with pytest.raises(ValueError, match=r"already running \(Airflow http://127.0.0.1:4242"):
        services.start(settings)


def test_the_admins_password_is_in_a_private_file_and_stays(tmp_path: Path) -> None:
    home = tmp_path / "airflow"
    passwords = home / "passwords.json"
    services._prepare_private(home, passwords)
    known = json.loads(passwords.read_text())
    assert len(known["admin"]) >= 16
    assert (home.stat().st_mode & 0o777, passwords.stat().st_mode & 0o777) == (0o700, 0o600)

    passwords.write_text('{"ada": "x"}')
    passwords.chmod(0o644)  # as Airflow makes it
    services._prepare_private(home, passwords)
    again = json.loads(passwords.read_text())
    assert (again["ada"], set(again)) == ("x", {"ada", "admin"})
    assert again["admin"] != known["admin"]
    services._prepare_private(home, passwords)
    assert json.loads(passwords.read_text()) == again
    assert passwords.stat().st_mode & 0o777 == 0o600


def test_airflow_is_bound_to_loopback_without_examples(settings: Settings) -> None:
    environment = services._airflow_environment(settings, [1, 2, 3, 4], mlflow_url="http://127.0.0.1:9")
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith(f"sqlite:///{settings.state_dir}")
    assert environment["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] == "1", "else an early answer to a question is lost"


@pytest.mark.parametrize(("part", "seconds"), [("api-server", 5), ("scheduler", 60), ("triggerer", 60)])
def test_the_api_server_gives_up_early_on_a_locked_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, part: str, seconds: int
) -> None:
    """It waits on its event loop, which the holder of the lock needs to commit."""
    given = {}

    def keep(name: str, command: list[str], *, port: int, env: dict[str, str], log_path: Path) -> None:
        del command, port, log_path
        given[name] = env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]

    monkeypatch.setattr(services, "_spawn", keep)
    services.spawn(part, settings, [1, 2, 3, 4])
    assert given[part].endswith(f"/airflow.db?timeout={seconds}")


def test_another_database_is_used_where_the_environment_names_one(tmp_path: Path) -> None:
    address = "postgresql+psycopg2://ada:secret@db/airflow"
    names = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address, "MLFLOW_BACKEND_STORE_URI": address.replace("air", "ml")}
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path), **names})
    environment = services._airflow_environment(settings, [1, 2, 3, 4], mlflow_url="http://127.0.0.1:9")
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == address
    assert settings.tracking_uri == names["MLFLOW_BACKEND_STORE_URI"]
    assert "secret" not in repr(settings.airflow_database) + repr(settings.mlflow_database)
    assert set(names) <= set(CONTROL_PLANE_ONLY), "no job receives them"
