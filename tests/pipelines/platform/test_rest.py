"""The REST client against a real HTTP server that misbehaves."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from pipelines.platform import rest
from pipelines.platform.rest import AirflowApi


class Busy(BaseHTTPRequestHandler):
    """Responds with the next of `statuses`, then with 200; records the requests."""

    statuses: ClassVar[list[int]] = []
    asked: ClassVar[list[str]] = []
    bodies: ClassVar[list[bytes]] = []

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/auth/token":
            return self._send(201, {"access_token": "token"})
        self.asked.append(self.command)
        self.bodies.append(body)
        status = self.statuses.pop(0) if self.statuses else 200
        return self._send(status, {"dag_run_id": "run", "detail": "database is locked"})

    do_GET = do_POST = do_PATCH = _answer

    def _send(self, status: int, body: dict[str, str]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    monkeypatch.setattr(rest, "PAUSE_SECONDS", 0.0)
    Busy.statuses, Busy.asked, Busy.bodies = [], [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    thread = Thread(target=server.serve_forever)
    thread.start()
    client = AirflowApi(f"http://127.0.0.1:{server.server_port}", user="admin", password="x")
    yield client
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_to_a_busy_server_is_repeated(api: AirflowApi) -> None:
    Busy.statuses = [500, 503]
    api.unpause("shapes.train")
    assert Busy.asked == ["PATCH"] * 3


def test_the_error_of_a_server_that_stays_busy_is_quoted(api: AirflowApi) -> None:
    Busy.statuses = [500] * rest.ATTEMPTS
    with pytest.raises(RuntimeError, match=r"gave 500: .*database is locked"):
        api.run("shapes.train", "run")
    assert len(Busy.asked) == rest.ATTEMPTS


@pytest.mark.parametrize("status", [404, 409])
def test_a_refusal_is_final(api: AirflowApi, status: int) -> None:
    Busy.statuses = [status]
    with pytest.raises(RuntimeError, match=f"gave {status}"):
        api.unpause("shapes.train")
    assert len(Busy.asked) == 1


def test_a_repeated_trigger_starts_one_run(api: AirflowApi) -> None:
    Busy.statuses = [500, 200]
    run_id = api.trigger("shapes.ingest")
    assert Busy.asked == ["POST", "POST"]
    assert [json.loads(body)["dag_run_id"] for body in Busy.bodies] == [run_id, run_id]
    assert api.trigger("shapes.ingest") != run_id


def test_a_run_that_a_busy_server_started_without_answering_is_found(api: AirflowApi) -> None:
    Busy.statuses = [500, 409, 200]
    run_id = api.trigger("shapes.ingest")
    assert Busy.asked == ["POST", "POST", "GET"]
    assert json.loads(Busy.bodies[0])["dag_run_id"] == run_id


def test_a_trigger_that_is_refused_names_the_reason(api: AirflowApi) -> None:
    Busy.statuses = [409, 404]
    with pytest.raises(RuntimeError, match=r"POST .*gave 409: .*database is locked"):
        api.trigger("shapes.ingest")


def test_a_question_is_answered_once(api: AirflowApi) -> None:
    Busy.statuses = [500]
    with pytest.raises(RuntimeError, match=r"PATCH .*/taskInstances/approve/-1/hitlDetails gave 500"):
        api.respond("shapes.promote", "run", "approve", "Approve")
    assert Busy.asked == ["PATCH"]


def test_a_pool_that_a_busy_server_made_without_answering_is_found(api: AirflowApi) -> None:
    Busy.statuses = [404, 500, 200, 200]
    api.ensure_pool("gpu", slots=2)
    assert Busy.asked == ["GET", "POST", "GET", "PATCH"]


def test_a_pool_that_was_not_made_is_made_again(api: AirflowApi) -> None:
    Busy.statuses = [404, 500, 404, 200]
    api.ensure_pool("gpu", slots=2)
    assert Busy.asked == ["GET", "POST", "GET", "POST"]
    Busy.statuses, Busy.asked[:] = [404, 403], []
    with pytest.raises(rest.ForbiddenError):
        api.ensure_pool("gpu", slots=2)
    assert Busy.asked == ["GET", "POST"], "no permission is not a busy server"
