"""Run the embedded platform: `mlflow server` and `airflow standalone` on free loopback ports, state in the state dir.

`services.json` records the running servers. It names each process by pid and start time, so that `down` from another
shell ends exactly what `up` started and never an unrelated process that inherited the pid.
"""

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import httpx

from alignment.contracts.values import Record
from pipelines import host
from pipelines.host import ProcessRecord
from pipelines.settings import Settings

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
START_TIMEOUT_SECONDS = 240
STOP_TIMEOUT_SECONDS = 40


class _Service(Record):
    """A running server process; it leads a separate process group."""

    name: str
    process: ProcessRecord
    url: str
    log_path: Path


class Platform(Record):
    """Both servers, with their addresses."""

    mlflow: _Service
    airflow: _Service

    def alive(self) -> bool:
        """True when both processes still run."""
        return is_alive(self.mlflow) and is_alive(self.airflow)


def start(settings: Settings, *, mlflow_port: int = 0, airflow_port: int = 0) -> Platform:
    """Start both servers and wait until they respond; port 0 picks a free one.

    Raises ValueError when a wanted port is in use or the platform is already running, RuntimeError with the last lines
    of the log when a server does not start. Every server that had started is stopped again.
    """
    running = read_platform(settings)
    if running is not None and (is_alive(running.mlflow) or is_alive(running.airflow)):
        raise ValueError(
            f"The platform is already running (Airflow {running.airflow.url}, MLflow {running.mlflow.url})."
            " Use it, or stop it with `make down`."
        )
    ports = _free_ports(5, wanted=(mlflow_port, airflow_port))
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    started: list[_Service] = []
    try:
        started.append(_start_mlflow(settings, ports[0]))
        started.append(_start_airflow(settings, ports[1:], mlflow_url=started[0].url))
        platform = Platform(mlflow=started[0], airflow=started[1])
        _record_path(settings).write_text(platform.model_dump_json(indent=1))
        _wait_until(_answers(platform.mlflow, "/health"), platform.mlflow)
        _wait_until(_answers(platform.airflow, "/api/v2/version"), platform.airflow)
    except BaseException:
        for service in started:
            _stop_service(service)
        _record_path(settings).unlink(missing_ok=True)
        raise
    return platform


def stop(settings: Settings) -> list[str]:
    """Stop what `start` started, and the jobs of the local engine; return the names of what was still running."""
    platform = read_platform(settings)
    if platform is None:
        return []
    stopped = [s.name for s in (platform.airflow, platform.mlflow) if _stop_service(s)]
    _record_path(settings).unlink(missing_ok=True)
    return stopped


def read_platform(settings: Settings) -> Platform | None:
    """Return the platform that was last started and not stopped, or None."""
    path = _record_path(settings)
    return Platform.model_validate_json(path.read_text()) if path.is_file() else None


def service_settings(settings: Settings, platform: Platform) -> Settings:
    """Return settings for a client of the embedded platform."""
    return settings.model_copy(update={"tracking_uri": platform.mlflow.url, "airflow_ui_url": platform.airflow.url})


def admin_password(settings: Settings) -> str:
    """Return the password that Airflow's simple auth manager generated for `admin`."""
    passwords: dict[str, str] = json.loads(_passwords_path(settings).read_text())
    return passwords["admin"]


def _free_ports(count: int, wanted: tuple[int, ...] = ()) -> list[int]:
    """Return `count` distinct free loopback ports; a wanted port (not 0) is used or refused, never replaced.

    Raises ValueError naming a wanted port that is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for port in (*wanted, *[0] * (count - len(wanted))):
            candidate = socket.socket()
            sockets.append(candidate)
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError as error:
                raise ValueError(
                    f"Port {port} on 127.0.0.1 is in use ({error.strerror}). Stop the program that uses it, or give"
                    " another port (0 picks a free one)."
                ) from error
        return [candidate.getsockname()[1] for candidate in sockets]
    finally:
        for candidate in sockets:
            candidate.close()


def is_alive(service: _Service) -> bool:
    """Return True when the process that was started still runs, and not another with its pid."""
    return host.is_alive(service.process)


def _stop_service(service: _Service) -> bool:
    """Send SIGTERM to the group and, after a grace period, SIGKILL to what is left; True when something was running."""
    if not is_alive(service):
        return False
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    host.signal_group(service.process.pid, signal.SIGTERM)
    while host.group_is_alive(service.process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    host.signal_group(service.process.pid, signal.SIGKILL)
    return True


def _start_mlflow(settings: Settings, port: int) -> _Service:
    home = settings.mlflow_dir
    home.mkdir(parents=True, exist_ok=True)
    # Artifacts by path, not through the server: the same runs then open without it, as `plumbline status` does.
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
        *("--no-serve-artifacts", "--default-artifact-root", (home / "artifacts").as_uri()),
    ]
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return _spawn("mlflow", command, port=port, env=env, log_path=home / "server.log")


def _start_airflow(settings: Settings, ports: list[int], *, mlflow_url: str) -> _Service:
    home = settings.state_dir / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(_airflow_database(settings))) as database:
        database.execute(
            "PRAGMA journal_mode=WAL"
        )  # WAL is kept in the file: readers and the writer do not wait for each other
    env = _airflow_environment(settings, ports, mlflow_url=mlflow_url)
    command = [sys.executable, "-m", "airflow", "standalone"]
    return _spawn("airflow", command, port=ports[0], env=env, log_path=home / "standalone.log")


def _airflow_environment(settings: Settings, ports: list[int], *, mlflow_url: str) -> dict[str, str]:
    """Return the environment of `airflow standalone` for this platform: loopback, our DAGs, our state, no examples.

    `ports` are those of the API server, the worker's log server, the triggerer's log server and the scheduler's.
    """
    home = settings.state_dir / "airflow"
    api, worker_log, trigger_log = ports[:3]
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords_path(settings)),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        # The default of 5 seconds is not enough for several writers beside a training that uses every core.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_airflow_database(settings)}?timeout=60",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_log),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "120",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # The end of a task's process is often noticed only at the next heartbeat. With the default of 5 seconds tasks
        # take that much longer, and an answer given in the meantime is lost (docs/operations.md).
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "PYTHONPATH": str(ROOT),
        "PLUMBLINE_STATE_DIR": str(settings.state_dir),
        "PLUMBLINE_STORE_URI": settings.store_uri,
        "PLUMBLINE_PROJECTS_DIR": str(settings.projects_dir),
        "PLUMBLINE_AIRFLOW_UI_URL": f"http://127.0.0.1:{api}",
        "MLFLOW_TRACKING_URI": mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
    }


def _spawn(name: str, command: list[str], *, port: int, env: Mapping[str, str], log_path: Path) -> _Service:
    # The servers start their helper programs by bare name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with log_path.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env, "PATH": path},
            start_new_session=True,
            cwd=ROOT,
        )
    return _Service(
        name=name,
        process=host.record_of(process.pid),
        url=f"http://127.0.0.1:{port}",
        log_path=log_path,
    )


def _answers(service: _Service, path: str) -> Callable[[], bool]:
    def probe() -> bool:
        try:
            return httpx.get(service.url + path, timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    return probe


def _wait_until(ready: Callable[[], bool], service: _Service) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready():
        if not is_alive(service) or time.monotonic() > deadline:
            tail = "\n".join(service.log_path.read_text(errors="replace").splitlines()[-40:])
            raise RuntimeError(f"{service.name} did not start at {service.url}. The end of {service.log_path}:\n{tail}")
        time.sleep(0.5)


def _record_path(settings: Settings) -> Path:
    return settings.state_dir / "services.json"


def _airflow_database(settings: Settings) -> Path:
    return settings.state_dir / "airflow" / "airflow.db"


def _passwords_path(settings: Settings) -> Path:
    return settings.state_dir / "airflow" / "passwords.json"
