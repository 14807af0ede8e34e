"""Each error of MLflow's client becomes one sentence with the next step, and never a traceback."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import cli
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.release.promotion.reconcile import reconcile
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.tracking.errors import TrackingRefused, TrackingUnavailable, explained, without_password
from pipelines.workspace import Workspace

Answering = Callable[[int, str], Settings]
SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"
MISSING = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Model Version (name=shapes, 2)\nnot found"})
FORBIDDEN = json.dumps({"error_code": "PERMISSION_DENIED", "message": "Permission denied"})


@pytest.fixture
def answering(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """Settings of a server that responds to every request with one status and body."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(status: int, body: str) -> Settings:
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, format: str, *values: Any) -> None:
                """Quiet."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        uri = f"http://ada:secret@127.0.0.1:{server.server_port}"
        return settings.model_copy(update={"tracking_uri": uri})

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (401, "You are not authenticated.", TrackingRefused, "does not know this log-in (401). Set MLFLOW_TRACKING_US"),
        (
            403,
            "Permission denied",
            TrackingRefused,
            "does not allow this to the user in MLFLOW_TRACKING_USERNAME (403)",
        ),
        (403, FORBIDDEN, TrackingRefused, "moving the champion and pruning MANAGE"),
        (
            404,
            MISSING,
            RuntimeError,
            "RESOURCE_DOES_NOT_EXIST: Model Version (name=shapes, 2) not found. Check that server",
        ),
        (418, "<html>a proxy</html>", RuntimeError, "failed with error code 418"),
        (500, "oops", TrackingUnavailable, "responds with HTTP error 500 each time. Check its log, then"),
        (503, "busy", TrackingUnavailable, "responds with HTTP error 503 each time"),
        (200, "<html>a log-in page</html>", RuntimeError, "not in a valid JSON format"),
    ],
)
def test_every_error_is_one_sentence(
    answering: Answering, status: int, body: str, kind: type[Exception], says: str
) -> None:
    settings = answering(status, body)
    with pytest.raises(kind) as raised:
        registry.set_alias(settings, "shapes", "candidate", 1)
    message = str(raised.value)
    assert type(raised.value) is kind
    assert message.startswith("MLflow at http://127.0.0.1:")
    assert says in message
    assert "secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("status", "code"), [(401, cli.BAD_INPUT), (403, cli.BAD_INPUT), (418, cli.FAILED), (500, cli.FAILED)]
)
@pytest.mark.parametrize("command", [("rollback", "--reason", "too dark"), ("reconcile",), ("prune", "--keep", "1")])
def test_no_command_ends_in_a_traceback(
    answering: Answering,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    command: tuple[str, ...],
    status: int,
    code: int,
) -> None:
    settings = answering(status, "no")
    monkeypatch.setenv("PLUMBLINE_STORE_URI", settings.store_uri)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_uri.replace("ada:secret@", ""))
    assert cli.main([command[0], str(SHAPES), *command[1:]]) == code
    said = capsys.readouterr()
    assert said.out == ""
    [line] = [line for line in said.err.splitlines() if line.startswith("plumbline: ")]
    assert line.startswith("plumbline: MLflow at http://127.0.0.1:")


@pytest.mark.parametrize("status", [401, 403, 418, 500])
def test_status_names_a_server_that_refuses_among_its_problems(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    settings = answering(status, "no")
    monkeypatch.setenv("PLUMBLINE_STORE_URI", settings.store_uri)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_uri.replace("ada:secret@", ""))
    assert cli.main(["status", str(SHAPES)]) == cli.FAILED
    said = capsys.readouterr()
    assert "MLflow at http://127.0.0.1:" in " ".join(json.loads(said.out)["problems"])
    assert "Traceback" not in said.err


def test_a_refused_user_gets_no_message_about_a_deleted_champion(answering: Answering, tiny_project: Any) -> None:
    """Otherwise a rollback would write its entry into the ledger before it fails."""
    settings = answering(403, "Permission denied")
    ledger.append(
        tiny_project.name,
        open_store(settings.store_uri, settings),
        actor="ada",
        action="promote",
        from_version=None,
        to_version=1,
        weights_digest="a" * 64,
        decision_digest="b" * 64,
        report_uri="",
    )
    with pytest.raises(TrackingRefused):
        read_state(tiny_project.name, settings)
    with pytest.raises(TrackingRefused):
        reconcile(Workspace(tiny_project, settings), "watch")


def test_foreign_errors_are_unchanged_and_ours_are_not_wrapped_twice() -> None:
    assert explained(KeyError("x"), "http://127.0.0.1:9") is None
    assert explained(ValueError("a bad name"), "http://127.0.0.1:9") is None
    assert explained(TrackingRefused("no"), "http://127.0.0.1:9") is None
    with pytest.raises(KeyError), runs.connect("http://127.0.0.1:9"):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://ada:sesame@mlflow:5000/x", "http://mlflow:5000/x"),
        ("https://mlflow.example", "https://mlflow.example"),
        ("postgresql://ada:ses/ame@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://ada:sesame@/mlflow?host=/run", "postgresql:///mlflow"),
        ("postgresql://db/mlflow?password=sesame", "postgresql://db/mlflow"),
        ("sqlite:////home/ada@work/mlflow.db", "sqlite:////home/ada@work/mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)
def test_an_address_is_shown_without_its_log_in(address: str, shown: str) -> None:
    assert without_password(address) == shown
