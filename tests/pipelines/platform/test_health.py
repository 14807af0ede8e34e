"""The health of the platform, by its record and by a server that speaks as Airflow's api-server does."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.host import record_of
from pipelines.platform import services
from pipelines.platform.checks.result import check
from pipelines.platform.health import describe_platform
from pipelines.settings import Settings, load_settings

HEALTHY: dict[str, dict[str, Any]] = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": "2026-01-01T00:00:00+00:00"},
    "triggerer": {"status": "healthy", "latest_triggerer_heartbeat": "2026-01-01T00:00:01+00:00"},
    "dag_processor": {"status": None, "latest_dag_processor_heartbeat": None},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})


@pytest.fixture
def airflow() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Address of a server, and the health that it reports."""
    health = {name: dict(part) for name, part in HEALTHY.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(health).encode()
            self.send_response(200 if self.path == "/api/v2/monitor/health" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", health
        server.shutdown()
        thread.join()


def leave_platform(settings: Settings, url: str, *, dead: str = "") -> None:
    """Write the record of a platform whose parts run, except one."""
    alive = record_of(os.getpid())
    gone = alive.model_copy(update={"started_ticks": 1})
    parts = tuple(
        services._Service(name=name, process=gone if name == dead else alive, url=url, log_path=Path(f"/log/{name}"))
        for name in ("mlflow", *services.AIRFLOW_PARTS)
    )
    services.write_platform(settings, services.Platform(ports=(1, 2, 3, 4), services=parts))


def test_without_a_platform_there_is_nothing_tocheck(settings: Settings) -> None:
    assert "not running here" in describe_platform(settings)


@pytest.mark.parametrize("dead", ["mlflow", *services.AIRFLOW_PARTS])
def test_a_part_that_has_ended_is_named(settings: Settings, dead: str) -> None:
    leave_platform(settings, "http://127.0.0.1:9", dead=dead)
    seen = check("platform", lambda: describe_platform(settings), "Restart it.")
    assert (seen.ok, seen.fix) == (False, "Restart it.")
    assert seen.found == f"{dead} has ended (pid {os.getpid()}, log /log/{dead})."


def test_a_triggerer_without_a_heartbeat_is_named_with_the_consequence(
    settings: Settings, airflow: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    url, health = airflow
    leave_platform(settings, url)
    assert describe_platform(settings) == f"{url}: scheduler, triggerer and dag-processor are alive"
    health["triggerer"]["status"] = "unhealthy"
    for found in (settings, settings.model_copy(update={"airflow_ui_url": url})):
        with pytest.raises(ValueError, match=r"triggerer gives no sign of life since 2026-01-01T00:00:01") as raised:
            describe_platform(found)
        assert "tasks that wait for a job stay deferred" in str(raised.value)


def test_an_airflow_that_does_not_respond_is_named(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"Airflow at http://127\.0\.0\.1:9 does not respond"):
        describe_platform(settings.model_copy(update={"airflow_ui_url": "http://127.0.0.1:9"}))
