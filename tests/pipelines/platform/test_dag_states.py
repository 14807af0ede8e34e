"""Paused and missing DAGs of a project, read from a real HTTP server in place of Airflow."""

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from pipelines.host import ProcessRecord, record_of
from pipelines.platform import services
from pipelines.platform.dag_states import dag_run_state, read_dag_states, read_pool
from pipelines.platform.rest import AirflowApi
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

SHAPES = Path(__file__).parents[3] / "projects" / "shapes.toml"
ALL = ("calibrate", "ingest", "monitor", "promote", "reconcile", "reward", "rollback", "train")
PAGE = 60


class Airflow(BaseHTTPRequestHandler):
    """Knows `dags` (id to paused), at most `PAGE` to a page; accepts `admin` with the password `right`."""

    dags: ClassVar[dict[str, bool]] = {}
    runs: ClassVar[dict[str, str]] = {}
    pools: ClassVar[dict[str, dict[str, Any]]] = {"gpu": {"name": "gpu", "slots": 2, "include_deferred": True}}
    html: ClassVar[bool] = False

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if given["password"] != "right":
            return self._send(401, {"detail": "Invalid credentials"})
        return self._send(201, {"access_token": "token"})

    def do_GET(self) -> None:
        if "/dagRuns/" in self.path:
            state = self.runs.get(self.path.removeprefix("/api/v2/dags/"))
            return self._send(200, {"state": state}) if state else self._send(404, {"detail": "not found"})
        if self.path.startswith("/api/v2/pools/"):
            pool = self.pools.get(self.path.rpartition("/")[2])
            return self._send(200, pool) if pool else self._send(404, {"detail": "not found"})
        query = parse_qs(urlsplit(self.path).query)
        first, limit = int(query.get("offset", ["0"])[0]), min(PAGE, int(query["limit"][0]))
        rows = [{"dag_id": dag_id, "is_paused": paused} for dag_id, paused in sorted(self.dags.items())]
        self._send(200, {"dags": rows[first : first + limit], "total_entries": len(rows)})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"<html>" if self.html else json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def url() -> Iterator[str]:
    Airflow.dags = {f"shapes.{name}": False for name in ALL}
    Airflow.html = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Airflow)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def project() -> Project:
    return load_project(SHAPES)


def with_login(settings: Settings, url: str, password: str = "right") -> Settings:
    login = {"airflow_ui_url": url, "airflow_user": "admin", "airflow_password": SecretStr(password)}
    return settings.model_copy(update=login)


def test_the_state_of_a_dag_run_is_that_of_airflow(url: str, settings: Settings) -> None:
    Airflow.runs = {"shapes.train/dagRuns/manual__1": "failed"}
    state = dag_run_state(with_login(settings, url))
    assert state("shapes.train", "manual__1") == "failed"
    assert state("shapes.train", "manual__2") is None, "deleted, for all that is known"
    assert state("shapes.train", "manual__1") == "failed"


def test_an_airflow_that_does_not_respond_is_asked_once(
    url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dag_run_state(settings)("shapes.train", "manual__1") is None, "no Airflow is known"
    assert dag_run_state(with_login(settings, url, "wrong"))("shapes.train", "manual__1") is None
    state = dag_run_state(with_login(settings, "http://127.0.0.1:9"))
    assert state("shapes.train", "manual__1") is None
    monkeypatch.setattr(AirflowApi, "__init__", None)
    assert state("shapes.train", "manual__1") is None


def test_paused_and_missing_dags_of_the_project_are_named(url: str, project: Project, settings: Settings) -> None:
    del Airflow.dags["shapes.reward"]
    Airflow.dags |= {"shapes.train": True, "shapes.ingest": True, "other.train": True}
    states = read_dag_states(Workspace(project, with_login(settings, url)))
    assert states.model_dump() == {
        "reachable": True,
        "url": url,
        "paused_dags": ("shapes.ingest", "shapes.train"),
        "missing_dags": ("shapes.reward",),
        "problem": "",
    }


def test_dags_beyond_the_first_page_are_found(url: str) -> None:
    Airflow.dags = {f"many.{number:03}": number % 2 == 0 for number in range(2 * PAGE + 5)}
    api = AirflowApi(url, user="admin", password="right")
    assert api.dags() == Airflow.dags
    assert api.dag_ids() == sorted(Airflow.dags)
    api.close()


def leave_platform(settings: Settings, url: str, process: ProcessRecord) -> None:
    """Write the files that `plumbline up` leaves: the record and the password of `admin`."""
    (settings.state_dir / "airflow").mkdir(parents=True)
    (settings.state_dir / "airflow" / "passwords.json").write_text('{"admin": "right"}')
    names = ("mlflow", *services.AIRFLOW_PARTS)
    log = settings.state_dir / "log"
    parts = tuple(services._Service(name=name, process=process, url=url, log_path=log) for name in names)
    services.write_platform(settings, services.Platform(ports=(1, 2, 3, 4), services=parts))


def test_the_embedded_platform_is_queried_without_settings(url: str, project: Project, settings: Settings) -> None:
    leave_platform(settings, url, record_of(os.getpid()))
    Airflow.dags["shapes.monitor"] = True
    states = read_dag_states(Workspace(project, settings))
    assert (states.url, states.paused_dags) == (url, ("shapes.monitor",))


def test_without_airflow_the_answer_names_the_next_step(project: Project, settings: Settings) -> None:
    states = read_dag_states(Workspace(project, settings))
    assert (states.reachable, states.paused_dags, states.missing_dags) == (False, None, None)
    assert states.problem.startswith("Airflow is not reachable: ")
    for step in ("plumbline up", "PLUMBLINE_AIRFLOW_UI_URL", "PLUMBLINE_AIRFLOW_USER", "PLUMBLINE_AIRFLOW_PASSWORD"):
        assert step in states.problem


def test_a_dead_platform_is_not_queried(url: str, project: Project, settings: Settings) -> None:
    leave_platform(settings, url, ProcessRecord(pid=2**22 - 1, started_ticks=1, boot_id="an earlier boot"))
    assert "is not running" in read_dag_states(Workspace(project, settings)).problem


def test_a_server_that_does_not_respond_is_named(project: Project, settings: Settings) -> None:
    states = read_dag_states(Workspace(project, with_login(settings, "http://127.0.0.1:9")))
    assert (states.reachable, states.url) == (False, "http://127.0.0.1:9")
    assert "Airflow is not reachable: http://127.0.0.1:9 does not respond" in states.problem


def test_a_refused_login_is_named_without_the_password(url: str, project: Project, settings: Settings) -> None:
    states = read_dag_states(Workspace(project, with_login(settings, url, password="wrong")))
    assert not states.reachable
    assert "Invalid credentials" in states.problem
    assert "PLUMBLINE_AIRFLOW_PASSWORD" in states.problem
    assert "wrong" not in states.problem


def test_another_server_at_that_address_is_named(url: str, project: Project, settings: Settings) -> None:
    Airflow.html = True
    states = read_dag_states(Workspace(project, with_login(settings, url)))
    assert not states.reachable
    assert "not with Airflow's API" in states.problem


def test_a_pool_is_read_and_a_missing_one_is_empty(url: str, settings: Settings) -> None:
    ours = with_login(settings, url)
    assert read_pool(ours, "gpu") == {"name": "gpu", "slots": 2, "include_deferred": True}
    assert read_pool(ours, "other") == {}
    assert read_pool(settings, "gpu") is None, "no Airflow is known"
    assert read_pool(with_login(settings, url, "wrong"), "gpu") is None
    assert read_pool(with_login(settings, "http://127.0.0.1:9"), "gpu") is None
    Airflow.html = True
    assert read_pool(ours, "gpu") is None
