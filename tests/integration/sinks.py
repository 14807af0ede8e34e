"""Receivers of messages: a webhook and a mail server on loopback, each recording what it received."""

import email
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS = {b"EHLO": "250-ready\r\n250 AUTH PLAIN", b"AUTH": "235 ok", b"QUIT": "221 bye"}
"""Any log-in is accepted."""


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook: an Airflow connection's address, and the JSON bodies posted to it, each with `path` and `token`."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append({**json.loads(body), "path": self.path, "token": self.headers.get("X-Token", "")})
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with _serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}", received


@contextmanager
def mailbox() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A mail server: an Airflow connection's address, and the mails received: subject, to and text."""
    received: list[dict[str, str]] = []

    class Handler(socketserver.StreamRequestHandler):
        """The minimum of RFC 5321 that a client needs to deliver a message."""

        def handle(self) -> None:
            self._say("220 ready")
            while line := self.rfile.readline():
                verb = line[:4].upper()
                if verb == b"DATA":
                    self._say("354 go on")
                    received.append(_read_mail(iter(self.rfile.readline, b".\r\n")))
                self._say(ANSWERS.get(verb, "250 ok"))

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        extra = "disable_ssl=true&disable_tls=true&from_email=plumbline%40example.org"
        yield f"smtp://127.0.0.1:{port}/?{extra}", received


def _read_mail(lines: Iterator[bytes]) -> dict[str, str]:
    message = email.message_from_bytes(b"".join(lines), policy=policy.default)
    body = message.get_body(("html", "plain"))
    assert body is not None
    return {"subject": message["Subject"], "to": message["To"], "text": body.get_content()}


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
