"""Messages leave through Airflow's own notifiers to a real web server and a real mail server, with the event's text."""

import json
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_string, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.dispatch.operators import notifications
from pipelines.dispatch.operators.notifications import NotifyPeople, alarm_callbacks, callbacks, failure_callbacks
from pipelines.project.file import load_project

SHAPES = Path(__file__).parents[4] / "projects" / "shapes.toml"
WEBHOOK = '[notify.webhook]\nconnection = "chat"\nendpoint = "room"\n'
PROMOTED = {"outcome": "promoted", "message": "version 1 -> version 2", "report_uri": "s3://bucket/report.html"}


class Hook(BaseHTTPRequestHandler):
    """Keeps what is posted."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, json.loads(body)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as a client without encryption speaks."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while command := self.rfile.readline().strip().upper():
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.got.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"250 ok\r\n")
            if command == b"QUIT":
                return


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from serve(ThreadingHTTPServer(("127.0.0.1", 0), Hook), "CHAT", "http://127.0.0.1:{port}", monkeypatch)


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    address = "smtp://127.0.0.1:{port}?disable_ssl=true&disable_tls=true&from_email=plumbline%40example.org"
    yield from serve(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox), "MAIL", address, monkeypatch)


def serve(server: Any, name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a server in a thread, and an Airflow connection that leads to it."""
    server.got = []
    monkeypatch.setenv(f"AIRFLOW_CONN_{name}", address.format(port=server.server_address[1]))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PLUMBLINE_AIRFLOW_UI_URL", "http://airflow")
    text = SHAPES.read_text().replace('"../examples', f'"{SHAPES.parents[1]}/examples')
    text += '[notify.mail]\nconnection = "mail"\nto = ["people@example.org"]\n'
    text += WEBHOOK
    (tmp_path / "shapes.toml").write_text(text)
    return str(tmp_path / "shapes.toml")


def context(answer: Any = None, **more: Any) -> Any:
    """Return what Airflow passes to a callback of a task that returned `answer`."""
    task_instance = SimpleNamespace(task_id="promote", xcom_pull=lambda task_ids: answer)
    return {"ti": task_instance, "dag_run": SimpleNamespace(dag_id="shapes.promote", run_id="manual__1"), **more}


def parsed(text: str) -> EmailMessage:
    return message_from_string(text, _class=EmailMessage, policy=policy.default)  # type: ignore[return-value,arg-type]


def test_a_promotion_is_notified_by_mail_and_webhook_with_the_report(project: str, hook: Any, mailbox: Any) -> None:
    NotifyPeople(project)(context(PROMOTED))
    [(path, said)] = hook.got
    assert path == "/room"
    assert said["event"] == "promoted"
    assert said["report_uri"] == "s3://bucket/report.html"
    assert said["text"].splitlines() == [
        "Plumbline shapes: promoted",
        "version 1 -> version 2",
        "Report: s3://bucket/report.html",
        "Run: http://airflow/dags/shapes.promote/runs/manual__1",
    ]
    mail = parsed(mailbox.got[0])
    assert (mail["Subject"], mail["To"]) == ("Plumbline shapes: promoted", "people@example.org")
    body = mail.get_body()
    assert body is not None
    assert "<p>version 1 -&gt; version 2</p>" in body.get_content()


def test_slack_and_teams_get_messages_of_their_form(project: str, hook: Any) -> None:
    text = Path(project).read_text()
    for form in ("slack", "teams"):
        Path(project).write_text(text[: text.index("[notify.mail]")] + WEBHOOK + f'format = "{form}"\n')
        NotifyPeople(project)(context(PROMOTED))
    (_, slack), (_, teams) = hook.got
    assert set(slack) == {"text"}
    assert slack["text"].startswith("Plumbline shapes: promoted\nversion 1 -&gt; version 2\nReport: s3://")
    (attachment,) = teams["attachments"]
    assert (teams["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    title, body = attachment["content"]["body"]
    assert (attachment["content"]["type"], title["text"]) == ("AdaptiveCard", "Plumbline shapes: promoted")
    assert body["text"].split("\n\n")[0] == "version 1 -> version 2"


def test_a_mail_about_a_decision_has_two_images_and_the_reports_page(
    project: str, hook: Any, mailbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evidence_for(path: str, result: Any, folder: Path) -> dict[str, Any]:
        assert (path, result["decision_digest"]) == (project, "d" * 64)
        files = [folder / "champion.png", folder / "candidate.png"]
        for file in files:
            file.write_bytes(b"\x89PNG")
        return {"report_page": "http://mlflow/#/report", "images": [str(file) for file in files]}

    monkeypatch.setattr(notifications, "resolve", {notifications.EVIDENCE_BUILDER: evidence_for}.__getitem__)
    NotifyPeople(project)(context({**PROMOTED, "decision_digest": "d" * 64}))
    mail = parsed(mailbox.got[0])
    assert [part.get_filename() for part in mail.iter_attachments()] == ["champion.png", "candidate.png"]
    assert "Report: http://mlflow/#/report" in hook.got[0][1]["text"]


def test_a_store_that_is_away_costs_the_images_but_not_the_message(
    project: str, hook: Any, mailbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise OSError("the store does not respond")

    monkeypatch.setattr(notifications, "resolve", lambda _name: away)
    NotifyPeople(project)(context({**PROMOTED, "decision_digest": "d" * 64}))
    assert hook.got[0][1]["report_uri"] == "s3://bucket/report.html"
    assert len(mailbox.got) == 1


def test_the_message_is_never_read_as_a_template_or_as_html(project: str, hook: Any, mailbox: Any) -> None:
    nasty = "{{ 7 * 6 }} {% raw %} <img src=x>"
    NotifyPeople(project)(context({"outcome": "rolled_back", "message": nasty}))
    assert nasty in hook.got[0][1]["text"]
    body = parsed(mailbox.got[0]).get_body()
    assert body is not None
    assert "{{ 7 * 6 }} {% raw %} &lt;img src=x&gt;" in body.get_content()


@pytest.mark.parametrize("answer", [{"outcome": "held", "message": "no"}, {"state": "agrees", "message": "fine"}, None])
def test_an_event_that_is_not_listed_is_not_notified(project: str, hook: Any, mailbox: Any, answer: Any) -> None:
    NotifyPeople(project)(context(answer))
    assert (hook.got, mailbox.got) == ([], [])


def test_messages_of_an_alarm_a_failure_and_a_question_name_their_cause(project: str, hook: Any, mailbox: Any) -> None:
    NotifyPeople(project)(context({"state": "alarm", "message": "moved by hand"}))
    NotifyPeople(project, "failed")(context(exception=ValueError("no GPU")))
    asking = SimpleNamespace(announcement={"message": "Sure?", "report_uri": "s3://r"})
    NotifyPeople(project, "asked")(context(task=asking))
    said = [(body["event"], body["text"].splitlines()[1], body["report_uri"]) for _, body in hook.got]
    assert said == [("alarm", "moved by hand", ""), ("failed", "no GPU", ""), ("asked", "Sure?", "s3://r")]


def notified_by_the_alarm(project: str) -> None:
    """Run the callback as Airflow does when the monitor's task `alarm` failed."""
    answers = {"monitor": {"outcome": "alarm", "uri": "s3://monitor/report.json"}, "promote": None}
    failed = context(exception=RuntimeError("moved by hand"))
    failed["ti"].xcom_pull = lambda task_ids: answers[task_ids]
    for callback in alarm_callbacks(load_project(Path(project)), project, report_of="monitor")["on_failure_callback"]:
        callback(failed)


@pytest.mark.parametrize(
    ("wanted", "event"), [('["alarm"]', "alarm"), ('["alarm", "failed"]', "alarm"), ('["failed"]', "failed")]
)
def test_the_monitors_alarm_is_notified_once_with_its_report(project: str, hook: Any, wanted: str, event: str) -> None:
    text = Path(project).read_text()
    Path(project).write_text(text[: text.index("[notify.mail]")] + f"[notify]\non = {wanted}\n" + WEBHOOK)
    notified_by_the_alarm(project)
    [(_, said)] = hook.got
    assert (said["event"], said["report_uri"]) == (event, "s3://monitor/report.json")
    assert "moved by hand" in said["text"]
    assert "Report: s3://monitor/report.json" in said["text"]


def test_a_server_that_is_down_does_not_block_other_notifications(
    project: str, hook: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", "smtp://127.0.0.1:9?disable_ssl=true&disable_tls=true&retry_limit=1")
    NotifyPeople(project)(context(PROMOTED))
    assert len(hook.got) == 1
    assert "Failed to send notification" in capsys.readouterr().out


def test_without_recipients_no_callback_is_attached() -> None:
    assert callbacks(load_project(SHAPES), str(SHAPES)) == {}
    assert failure_callbacks(load_project(SHAPES), str(SHAPES)) == {}
    assert alarm_callbacks(load_project(SHAPES), str(SHAPES), report_of="monitor") == {"on_failure_callback": []}
