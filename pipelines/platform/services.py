"""Run the embedded platform: `mlflow server` and the parts of Airflow on free loopback ports, state in the state dir.

Airflow's scheduler, dag-processor, triggerer and api-server are started one by one, as `airflow standalone` does; that
command restarts none of them (see supervision.py). `services.json` records the running servers. It names each process
by pid and start time, so that `down` from another shell ends exactly what `up` started and never an unrelated process
that inherited the pid.
"""

import fcntl
import json
import logging
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from alignment.contracts.values import Record
from pipelines import host
from pipelines.host import ProcessRecord
from pipelines.platform import running_jobs
from pipelines.platform.ports import choose_ports
from pipelines.settings import Settings
from pipelines.tracking.first_use import database_lock

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
START_TIMEOUT_SECONDS = 240
STOP_TIMEOUT_SECONDS = 40
SIMPLE_AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
AIRFLOW_PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
LOCK_SECONDS, SERVER_LOCK_SECONDS = 60, 5
"""Seconds to wait for another writer of Airflow's SQLite; the second is the API server's.

The API server writes its audit log on its event loop. A request that holds the database's lock needs that loop to
commit, so when the two meet, everything waits until the first one gives up. Clients repeat what failed.
"""


class _Service(Record):
    """A running server process; it leads a separate session."""

    name: str
    process: ProcessRecord
    url: str
    """Address of an http server; empty for a part of Airflow that has none."""
    log_path: Path


class Platform(Record):
    """The servers: MLflow first, then Airflow's parts."""

    ports: tuple[int, ...]
    """Ports of MLflow, the api-server, the worker's log server and the triggerer's log server."""
    services: tuple[_Service, ...]

    @property
    def mlflow(self) -> _Service:
        """The tracking server."""
        return self.service("mlflow")

    @property
    def airflow(self) -> _Service:
        """Airflow's api-server, with the pages and the REST API."""
        return self.service("api-server")

    def service(self, name: str) -> _Service:
        """Return the service of this name."""
        return next(service for service in self.services if service.name == name)

    def with_service(self, fresh: _Service) -> "Platform":
        """Return the platform with this service in place of the one with its name."""
        services = tuple(fresh if service.name == fresh.name else service for service in self.services)
        return self.model_copy(update={"services": services})

    def dead(self) -> list[_Service]:
        """Return the services whose process has ended."""
        return [service for service in self.services if not is_alive(service)]


def start(
    settings: Settings, *, mlflow_port: int = 0, airflow_port: int = 0, news: Callable[[str], None] = log.debug
) -> Platform:
    """Start all servers and wait until they respond; port 0 takes the one of the last start, or a free one.

    `news` receives what is being started.

    Raises ValueError when a wanted port is in use or the platform is already running, RuntimeError with the last lines
    of the log when a server does not start. Every server that had started is stopped again.
    """
    running = read_platform(settings)
    if running is not None and len(running.dead()) < len(running.services):
        raise ValueError(
            f"The platform is already running (Airflow {running.airflow.url}, MLflow {running.mlflow.url})."
            " Use it, or stop it with `make down`."
        )
    ports = choose_ports(settings, wanted=(mlflow_port, airflow_port))
    started: list[_Service] = []
    try:
        with database_lock(mlflow_database(settings)):  # The server makes its database before it answers.
            news("starting MLflow and preparing Airflow's database")
            started.append(spawn("mlflow", settings, ports))
            _prepare_database(settings, ports)
            _wait_until(_answers(started[0], "/health"), started[0])
        news("starting Airflow")
        started += [spawn(name, settings, ports) for name in AIRFLOW_PARTS]
        platform = Platform(ports=tuple(ports), services=tuple(started))
        write_platform(settings, platform)
        _wait_until(_answers(platform.airflow, "/api/v2/version"), platform.airflow)
    except BaseException:
        _stop_services(started, settings)
        _record_path(settings).unlink(missing_ok=True)
        raise
    return platform


def stop(settings: Settings) -> list[str]:
    """Stop what `start` started, and the jobs of the local engine; return the names of what was still running.

    Jobs end before MLflow does, so that each can close its run. They write a checkpoint: the next `start` resumes them.
    """
    with locked(settings):  # A supervision that runs finds no record afterwards, and restarts nothing.
        platform = read_platform(settings)
        if platform is None:
            return []
        _record_path(settings).rename(_stopping_path(settings))
    last = [platform.airflow]  # Tasks that end meanwhile report it to the api-server.
    stopped = _stop_services([s for s in platform.services if s not in (platform.mlflow, *last)], settings)
    stopped += _stop_services(last, settings)
    running_jobs.preempt_all(settings)
    stopped += _stop_services([platform.mlflow], settings)
    _stopping_path(settings).unlink(missing_ok=True)
    return stopped


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Hold the lock under which `services.json` changes."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with (settings.state_dir / "services.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_platform(settings: Settings) -> Platform | None:
    """Return the platform that was last started and not stopped, or None."""
    path = _record_path(settings)
    return Platform.model_validate_json(path.read_text()) if path.is_file() else None


def write_platform(settings: Settings, platform: Platform) -> None:
    """Replace the record of the running servers."""
    partial = _record_path(settings).with_suffix(".partial")
    partial.write_text(platform.model_dump_json(indent=1))
    partial.replace(_record_path(settings))


def service_settings(settings: Settings, platform: Platform) -> Settings:
    """Return settings for a client of the embedded platform."""
    return settings.model_copy(update={"tracking_uri": platform.mlflow.url, "airflow_ui_url": platform.airflow.url})


def admin_password(settings: Settings) -> str:
    """Return the password of the user `admin` of the embedded Airflow."""
    passwords: dict[str, str] = json.loads(_passwords_path(settings).read_text())
    return passwords["admin"]


def is_alive(service: _Service) -> bool:
    """Return True when the process that was started still runs, and not another with its pid."""
    return host.is_alive(service.process)


def _stop_services(services: Sequence[_Service], settings: Settings) -> list[str]:
    """Send SIGTERM to the groups and, after a grace period, SIGKILL to what is left of the sessions.

    Returns the names of those that were running.
    """
    running = [service.name for service in services if is_alive(service)]
    for service in services:
        if service.name in running:
            host.signal_group(service.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while time.monotonic() < deadline and any(
        host.session_pids(service.process.pid, _mark(settings)) for service in services if service.name in running
    ):
        time.sleep(0.1)
    for service in services:
        kill_leftovers(service, settings)
    return running


def kill_leftovers(service: _Service, settings: Settings) -> int:
    """Send SIGKILL to the processes that a service which has ended left behind; return their number.

    Not SIGTERM: an Airflow task would take it for a person's wish to stop its job.
    """
    return host.kill_session(service.process.pid, _mark(settings))


def spawn(name: str, settings: Settings, ports: Sequence[int]) -> _Service:
    """Start the service of this name; `ports` are those of the platform."""
    if name == "mlflow":
        return _start_mlflow(settings, ports[0])
    patience = SERVER_LOCK_SECONDS if name == "api-server" else LOCK_SECONDS
    mlflow_url = f"http://127.0.0.1:{ports[0]}"
    env = _airflow_environment(settings, ports[1:], mlflow_url=mlflow_url, lock_seconds=patience)
    warm = ["-m", "pipelines.platform.warm_scheduler"]
    command = [sys.executable, *(warm if name == "scheduler" else ["-m", "airflow", name])]
    log_path = _airflow_home(settings) / f"{name}.log"
    return _spawn(name, command, port=ports[1] if name == "api-server" else 0, env=env, log_path=log_path)


def mlflow_database(settings: Settings) -> str:
    """Return the address of the embedded MLflow's database, password included."""
    return settings.mlflow_database.get_secret_value() or f"sqlite:///{settings.mlflow_dir / 'mlflow.db'}"


def _start_mlflow(settings: Settings, port: int) -> _Service:
    home = settings.mlflow_dir
    home.mkdir(parents=True, exist_ok=True)
    # Artifacts by path, not through the server: the same runs then open without it, as `plumbline status` does.
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--no-serve-artifacts", "--default-artifact-root", (home / "artifacts").as_uri()),
    ]
    env = {
        # Not as an argument: an address with a password would be in the list of processes.
        "MLFLOW_BACKEND_STORE_URI": mlflow_database(settings),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PLUMBLINE_STATE_DIR": str(settings.state_dir),
    }
    return _spawn("mlflow", command, port=port, env=env, log_path=home / "server.log")


def _prepare_private(home: Path, passwords_path: Path) -> None:
    """Make Airflow's folder for this user only, and in it the password of `admin`.

    Airflow prints a password that it generates into its log, and keeps its passwords and keys in this folder.
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    passwords_path.touch(mode=0o600)
    passwords_path.chmod(0o600)
    known: dict[str, str] = json.loads(passwords_path.read_text() or "{}")
    if "admin" not in known:
        passwords_path.write_text(json.dumps({**known, "admin": secrets.token_urlsafe(12)}) + "\n")


def _prepare_database(settings: Settings, ports: Sequence[int]) -> None:
    """Create or migrate Airflow's tables; RuntimeError with the end of the output when that fails."""
    home = _airflow_home(settings)
    _prepare_private(home, _passwords_path(settings))
    if not settings.airflow_database.get_secret_value():
        with closing(sqlite3.connect(home / "airflow.db")) as database:
            # WAL is kept in the file: readers and the writer do not wait for each other.
            database.execute("PRAGMA journal_mode=WAL")
    env = _airflow_environment(settings, ports[1:], mlflow_url="")
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise RuntimeError(f"Airflow's database could not be prepared. The end of `airflow db migrate`:\n{tail}")


def _airflow_environment(
    settings: Settings, ports: Sequence[int], *, mlflow_url: str, lock_seconds: int = LOCK_SECONDS
) -> dict[str, str]:
    """Return the environment of Airflow's parts for this platform: loopback, our DAGs, our state, no examples.

    `ports` are those of the API server, the worker's log server and the triggerer's log server. `lock_seconds` is the
    time to wait for another writer of the embedded database.
    """
    home = _airflow_home(settings)
    api, worker_log, trigger_log = ports[:3]
    embedded_database = f"sqlite:///{home / 'airflow.db'}?timeout={lock_seconds}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__AUTH_MANAGER": SIMPLE_AUTH_MANAGER,
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords_path(settings)),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": settings.airflow_database.get_secret_value() or embedded_database,
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_log),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "120",
        # The end of a task's process is often noticed only at the next heartbeat. With the default of 5 seconds tasks
        # take that much longer, and an answer given in the meantime is lost (docs/operations.md).
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # A running task survives five minutes without the api-server. With the defaults (5 retries, up to 90 seconds
        # apart) it may give up within one.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "40",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "15",
        "PYTHONPATH": str(ROOT),
        # Airflow's processes change their title. It must not overwrite the environment, by which they are found.
        "SPT_NOENV": "1",
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
    log_path.touch(mode=0o600)
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
        url=f"http://127.0.0.1:{port}" if port else "",
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


def _stopping_path(settings: Settings) -> Path:
    return settings.state_dir / "services.stopping.json"


def _airflow_home(settings: Settings) -> Path:
    return settings.state_dir / "airflow"


def _passwords_path(settings: Settings) -> Path:
    return _airflow_home(settings) / "passwords.json"


def _mark(settings: Settings) -> str:
    """Return the environment variable that every process of this platform has."""
    return f"PLUMBLINE_STATE_DIR={settings.state_dir}"
