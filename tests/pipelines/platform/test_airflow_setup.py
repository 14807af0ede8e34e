"""`plumbline setup-airflow` against a real HTTP server in place of Airflow: what it makes, keeps, and finds wrong."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from pipelines.commands import cli
from pipelines.platform import dag_states
from pipelines.platform.airflow_setup import PLACEHOLDER_HOST, setup_airflow
from pipelines.settings import Settings

SHAPES = Path(__file__).parents[3] / "projects" / "shapes.toml"
NOTIFY = """
[notify]
mail = { connection = "post", to = ["models@example.org"] }
webhook = { connection = "chat" }
"""


class Airflow(BaseHTTPRequestHandler):
    """Keeps pools and connections; `kind` is its auth manager, and a reader may change nothing."""

    pools: ClassVar[dict[str, dict[str, Any]]] = {}
    connections: ClassVar[dict[str, dict[str, Any]]] = {}
    written: ClassVar[list[str]] = []
    kind: ClassVar[str] = "fab"
    reader: ClassVar[bool] = False

    def do_GET(self) -> None:
        answers = {
            "/auth/token": {"open": 201, "simple": 403}.get(self.kind, 405),
            "/auth/fab/v1/users?limit=1": 200 if self.kind == "fab" else 404,
        }
        if self.path in answers:
            assert self.path != "/auth/token" or not self.headers["Authorization"]
            return self._send(answers[self.path], {"access_token": "anybody"})
        _, _, _, room, name = self.path.split("/")
        found = (self.pools if room == "pools" else self.connections).get(name)
        return self._send(200 if found else 404, found or {"detail": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/auth/token":
            return self._send(201, {"access_token": "token"})
        return self._write("POST", body)

    def do_PATCH(self) -> None:
        self._write("PATCH", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _write(self, method: str, body: dict[str, Any]) -> None:
        if self.reader:
            return self._send(403, {"detail": "Forbidden"})
        self.written.append(f"{method} {self.path}")
        room = self.pools if "/pools" in self.path else self.connections
        room[body.get("name") or body["connection_id"]] = body
        return self._send(200, body)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def known(settings: Settings) -> Iterator[Settings]:
    """Settings of an installation with one project that notifies, and a fresh Airflow."""
    Airflow.pools, Airflow.connections, Airflow.written = {}, {}, []
    Airflow.kind, Airflow.reader = "fab", False
    settings.projects_dir.mkdir(exist_ok=True)
    (settings.projects_dir / "shapes.toml").write_text(f'extends = ["{SHAPES}"]\n{NOTIFY}')
    server = ThreadingHTTPServer(("127.0.0.1", 0), Airflow)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    login = {"airflow_ui_url": url, "airflow_user": "root", "airflow_password": SecretStr("right")}
    yield settings.model_copy(update=login)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_fresh_airflow_gets_pool_and_placeholders_and_a_second_call_writes_nothing(known: Settings) -> None:
    first = setup_airflow(known)
    assert first.pool == "gpu now has 2 slots, and deferred tasks keep theirs; there was none"
    assert Airflow.pools["gpu"]["include_deferred"] is True
    assert [(own.connection, own.kind, own.projects, own.state) for own in first.connections] == [
        ("post", "smtp", ("shapes",), "made as a placeholder"),
        ("chat", "http", ("shapes",), "made as a placeholder"),
    ]
    assert first.auth_manager == "FAB"
    (problem,) = first.problems
    assert problem.startswith("Fill in the connections post, chat in Airflow")
    before = list(Airflow.written)
    again = setup_airflow(known)
    assert before == Airflow.written
    assert again.pool == "gpu has 2 slots, as before"
    assert {own.state for own in again.connections} == {"still a placeholder"}
    for connection in Airflow.connections.values():
        assert connection["host"] == PLACEHOLDER_HOST
        connection["host"] = "mail.example.org"
    done = setup_airflow(known)
    assert ({own.state for own in done.connections}, done.problems) == ({"exists"}, ())
    assert before == Airflow.written


@pytest.mark.parametrize(
    ("have", "deferred", "slots", "size"),
    [
        (1, True, None, 2),
        (8, True, None, 8),
        (-1, True, None, -1),
        (8, False, None, 8),
        (8, True, 4, 4),
        (1, True, 4, 4),
    ],
)
def test_the_pool_grows_to_the_largest_job_and_shrinks_only_on_request(
    known: Settings, have: int, deferred: bool, slots: int | None, size: int
) -> None:
    Airflow.pools["gpu"] = {"name": "gpu", "slots": have, "include_deferred": deferred}
    setup_airflow(known, slots=slots)
    assert (Airflow.pools["gpu"]["slots"], Airflow.pools["gpu"]["include_deferred"]) == (size, True)


def test_too_few_slots_are_refused_with_the_job_that_needs_more(known: Settings) -> None:
    with pytest.raises(ValueError, match=r"--slots is 1, but placement.train of 'shapes' has num_processes = 2.*never"):
        setup_airflow(known, slots=1)
    assert Airflow.written == []


@pytest.mark.parametrize(
    ("kind", "shown", "problem"),
    [
        ("open", "simple, without passwords", "Anyone who reaches this Airflow is an administrator"),
        ("simple", "simple", "simple auth manager, which keeps passwords in a plain file"),
        ("other", "another one, which was not checked", ""),
    ],
)
def test_the_auth_manager_is_checked(known: Settings, kind: str, shown: str, problem: str) -> None:
    Airflow.kind = kind
    found = setup_airflow(known)
    assert found.auth_manager == shown
    assert problem in " ".join(found.problems[1:])
    assert bool(found.problems[1:]) == bool(problem)


def test_the_simple_auth_manager_suits_the_embedded_platform(known: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    Airflow.kind = "simple"
    monkeypatch.setattr(dag_states, "airflow_login", lambda _: (known.airflow_ui_url, "admin", "right"))
    embedded = known.model_copy(update={"airflow_ui_url": "", "airflow_user": ""})
    found = setup_airflow(embedded)
    assert (found.auth_manager, len(found.problems)) == ("simple", 1)


def test_a_user_who_may_only_read_is_refused_with_the_fix(known: Settings) -> None:
    Airflow.reader = True
    with pytest.raises(ValueError, match=r"User 'root' may not change pools.*administrator for this command"):
        setup_airflow(known)


def test_an_unknown_or_silent_airflow_is_named(known: Settings) -> None:
    nowhere = known.model_copy(update={"airflow_ui_url": ""})
    with pytest.raises(ValueError, match=r"No Airflow is known. Start the embedded platform"):
        setup_airflow(nowhere)
    silent = known.model_copy(update={"airflow_ui_url": "http://127.0.0.1:9"})
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9 does not respond"):
        setup_airflow(silent)


def test_a_broken_project_is_a_problem_and_does_not_stop_the_others(known: Settings) -> None:
    (known.projects_dir / "broken.toml").write_text('name = "broken"\n')
    found = setup_airflow(known)
    assert "broken.toml" in found.problems[0]
    assert found.pool.startswith("gpu now has 2 slots")


def test_the_command_prints_the_answer_and_exits_with_1_while_something_is_left(
    known: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "PLUMBLINE_AIRFLOW_UI_URL": known.airflow_ui_url,
        "PLUMBLINE_AIRFLOW_USER": "root",
        "PLUMBLINE_AIRFLOW_PASSWORD": "right",
        "PLUMBLINE_PROJECTS_DIR": str(known.projects_dir),
        "PLUMBLINE_STATE_DIR": str(known.state_dir),
    }.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["setup-airflow", "--slots", "3"]) == cli.FAILED
    assert json.loads(capsys.readouterr().out)["pool"].startswith("gpu now has 3 slots")
    assert cli.main(["setup-airflow", "--slots", "1"]) == cli.BAD_INPUT
    assert "right" not in capsys.readouterr().err
