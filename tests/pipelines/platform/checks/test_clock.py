"""Clocks, compared with servers that state a time made for the test."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.platform.checks import clock
from pipelines.settings import Settings


@contextmanager
def server(ahead_seconds: float | None, status: int = 200) -> Iterator[str]:
    """Address of a server whose clock is ahead; None: it states no time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            if ahead_seconds is not None:
                self.send_header("Date", formatdate(time.time() + ahead_seconds, usegmt=True))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.mark.parametrize(
    ("ahead", "status", "found"),
    [
        (0, 200, "MLflow has the same time"),
        (40, 200, "MLflow is 40 s ahead"),
        (0, 403, "MLflow has the same time"),
        (None, 200, "MLflow gave no time"),
    ],
)
def test_a_small_difference_is_stated(settings: Settings, ahead: float | None, status: int, found: str) -> None:
    with server(ahead, status) as address:
        seen = clock.compare(settings.model_copy(update={"tracking_uri": address}))
    assert seen.replace("39 s", "40 s") == found


def test_more_than_a_minute_is_a_fault(settings: Settings) -> None:
    with server(-300) as address:
        away = {"store_uri": "s3://bucket/root", "s3_endpoint_url": address}
        with pytest.raises(ValueError, match=r"clock of this host is wrong, .*: the store is 30\d s behind\."):
            clock.compare(settings.model_copy(update=away))


def test_files_and_silent_servers_have_no_clock(settings: Settings) -> None:
    assert clock.compare(settings).startswith("no server to compare with")
    assert clock.compare(settings.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})) == "MLflow gave no time"
