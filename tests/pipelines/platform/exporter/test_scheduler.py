"""Airflow's health and waiting tasks, read from a real HTTP server in place of Airflow."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from pipelines.platform.exporter import scheduler
from pipelines.platform.exporter.metrics import Reading
from pipelines.settings import Settings


class Airflow(BaseHTTPRequestHandler):
    """Answers a log-in, the health page and the list of task instances."""

    health: ClassVar[dict[str, Any]] = {}
    tasks: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self._send(201, {"access_token": "token"})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/api/v2/monitor/health":
            return self._send(200, self.health)
        assert parts.path == "/api/v2/dags/~/dagRuns/~/taskInstances"
        assert self.headers["Authorization"] == "Bearer token"
        states = parse_qs(parts.query)["state"]
        found = [task for task in self.tasks if task["state"] in states]
        return self._send(200, {"task_instances": found, "total_entries": len(found)})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def reading(settings: Settings) -> Iterator[Reading]:
    Airflow.health = {
        "metadatabase": {"status": "healthy"},
        "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": "2026-11-28T10:00:00+00:00"},
        "triggerer": {"status": "unhealthy", "latest_triggerer_heartbeat": None},
        "dag_processor": None,
    }
    Airflow.tasks = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Airflow)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    login = {"airflow_ui_url": url, "airflow_user": "exporter", "airflow_password": SecretStr("right")}
    yield Reading(settings.model_copy(update=login))
    server.shutdown()
    thread.join()
    server.server_close()


def task(state: str, pool: str, scheduled: str | None, queued: str | None = None) -> dict[str, Any]:
    return {"state": state, "pool": pool, "scheduled_when": scheduled, "queued_when": queued}


def test_health_and_heartbeats_of_the_components(reading: Reading) -> None:
    found = {(s.metric.name.removeprefix("plumbline_airflow_"), *s.labels): s.value for s in scheduler.read(reading)}
    assert found == {
        ("healthy", "metadatabase"): 1,
        ("healthy", "scheduler"): 1,
        ("healthy", "triggerer"): 0,
        ("heartbeat_timestamp_seconds", "scheduler"): 1795860000.0,
    }


def test_waiting_tasks_by_pool_and_the_longest_waiting(reading: Reading) -> None:
    Airflow.tasks = [
        task("scheduled", "gpu", "2026-11-28T10:00:00+00:00"),
        task("scheduled", "gpu", "2026-11-28T09:00:00Z"),
        task("queued", "default_pool", None, "2026-11-28T10:00:00+00:00"),
        task("running", "gpu", "2026-11-28T01:00:00+00:00"),
    ]
    found = {(s.metric.name.removeprefix("plumbline_airflow_"), *s.labels): s.value for s in scheduler.read(reading)}
    waiting = {key: value for key, value in found.items() if "waiting" in key[0]}
    assert waiting == {
        ("waiting_tasks", "gpu"): 2,
        ("waiting_tasks", "default_pool"): 1,
        ("oldest_waiting_timestamp_seconds", "gpu"): 1795856400.0,
        ("oldest_waiting_timestamp_seconds", "default_pool"): 1795860000.0,
    }


def test_without_an_airflow_the_error_names_the_variables(settings: Settings) -> None:
    with pytest.raises(RuntimeError, match=r"PLUMBLINE_AIRFLOW_UI_URL.*plumbline up"):
        scheduler.read(Reading(settings))
