"""The user of tasks and jobs is created once; its password follows the environment."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlparse

import pytest

from pipelines.platform.compose.mlflow_user import ensure_user


class Users(BaseHTTPRequestHandler):
    """The part of MLflow's user API that is used: the administrator's log-in, and users in a dictionary."""

    users: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        name = parse_qs(urlparse(self.path).query)["username"][0]
        self._answer(200 if name in self.users else 404)

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._answer(200):
            self.users[given["username"]] = given["password"]

    do_PATCH = do_POST

    def _answer(self, status: int) -> bool:
        allowed = self.headers.get("Authorization") == "Basic YWRtaW46c2VjcmV0"
        self.send_response(status if allowed else 401)
        self.end_headers()
        self.wfile.write(b"{}" if allowed else b"who are you")
        return allowed

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    monkeypatch.setattr(Users, "users", {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Users)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "secret",
        "MLFLOW_NEW_PASSWORD": "first",
    }
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_user_is_created_and_later_gets_the_new_password(environ: dict[str, str]) -> None:
    assert ensure_user("plumbline", environ) == "created"
    assert Users.users == {"plumbline": "first"}
    assert ensure_user("plumbline", {**environ, "MLFLOW_NEW_PASSWORD": "second"}) == "updated"
    assert Users.users == {"plumbline": "second"}


def test_a_refusal_is_shown(environ: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="401: who are you"):
        ensure_user("plumbline", {**environ, "MLFLOW_TRACKING_PASSWORD": "wrong"})
