"""A probe passes for a working service and fails for each way in which one can be ill."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.error import HTTPError

import pytest

from pipelines.platform.compose import probe as module
from pipelines.platform.compose.probe import probe

LOGIN = "Basic YWRtaW46c2VjcmV0"
TOKEN = "Bearer token"


class Server(BaseHTTPRequestHandler):
    """Answers with the JSON of a path, if the request has the credentials that the path wants."""

    answers: ClassVar[dict[str, Any]] = {}
    wants: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        wanted = self.wants.get(path, "")
        status = 200 if not wanted or self.headers.get("Authorization") == wanted else 401
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(self.answers.get(path, {})).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield {
        "AIRFLOW_URL": url,
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "secret",
        "PLUMBLINE_RAY_ADDRESS": url,
        "RAY_AUTH_TOKEN": "token",
    }
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_airflow_is_as_healthy_as_the_part(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    health = {"scheduler": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}}
    monkeypatch.setattr(Server, "answers", {"/api/v2/monitor/health": health})
    probe("airflow", "scheduler", environ)
    with pytest.raises(ValueError, match="triggerer as unhealthy"):
        probe("airflow", "triggerer", environ)
    with pytest.raises(ValueError, match="dag_processor as None"):
        probe("airflow", "dag_processor", environ)


def test_mlflow_must_know_the_password_and_ask_for_it(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/api/2.0/mlflow/experiments/search"
    monkeypatch.setattr(Server, "wants", {path: LOGIN})
    probe("mlflow", "", environ)
    with pytest.raises(HTTPError):
        probe("mlflow", "", {**environ, "MLFLOW_TRACKING_PASSWORD": "old"})
    monkeypatch.setattr(Server, "wants", {})
    with pytest.raises(ValueError, match="without credentials"):
        probe("mlflow", "", environ)


def test_ray_must_list_the_node_as_alive_and_ask_for_the_token(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"hostname": "here", "raylet": {"state": "ALIVE"}}, {"hostname": "gone", "raylet": {"state": "DEAD"}}]
    monkeypatch.setattr(Server, "answers", {"/nodes": {"data": {"summary": nodes}}})
    monkeypatch.setattr(Server, "wants", {"/nodes": TOKEN})
    probe("ray", "", environ)
    monkeypatch.setattr(module.socket, "gethostname", lambda: "here")
    probe("ray-node", "", environ)
    monkeypatch.setattr(module.socket, "gethostname", lambda: "gone")
    with pytest.raises(ValueError, match="does not list gone"):
        probe("ray-node", "", environ)
    monkeypatch.setattr(Server, "wants", {})
    with pytest.raises(ValueError, match="without credentials"):
        probe("ray", "", environ)


def test_an_unknown_service_is_named_with_the_known_ones(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"Unknown service 'redis'\. Known: airflow, mlflow"):
        probe("redis", "", environ)
