"""Behaviour of the engine ray only, most of it without a cluster; test_contract.py tests what every engine does."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus
from pipelines.dispatch.cluster import versions
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords
from pipelines.dispatch.engines import ray as engine_module
from pipelines.dispatch.engines.catalogue import Ray
from pipelines.dispatch.engines.ray import RayEngine
from pipelines.settings import Settings, load_settings
from pipelines.store.storage import open_store

pytestmark = pytest.mark.timeout(120)

TOKEN = "c0ffee" * 8
HANDLE = JobHandle(engine="ray", job_id="words-train-aaaaaaaaaaaa-g0")
NOWHERE = "http://127.0.0.1:9"


def make_settings(folder: Path, address: str = NOWHERE, token: str = TOKEN) -> Settings:
    return load_settings(
        {
            "PLUMBLINE_STATE_DIR": str(folder / "state"),
            "PLUMBLINE_STORE_URI": (folder / "store").as_uri(),
            "PLUMBLINE_RAY_ADDRESS": address,
            "RAY_AUTH_TOKEN": token,
        }
    )


def make_request(settings: Settings) -> JobRequest:
    return made_request(settings.store_uri, placement=Placement(engine="ray"))


def record_attempt(settings: Settings, *, age_seconds: float, status: JobStatus | None = None) -> AttemptRecords:
    records = AttemptRecords(open_store(settings.store_uri, settings), HANDLE.job_id)
    created_at = time.time() - age_seconds
    attempt = Attempt(
        request=make_request(settings), grace_seconds=1, resize_seconds=1, version="1", created_at=created_at
    )
    records.create(1, attempt)
    if status is not None:
        records.write_status(1, status)
    return records


def test_without_an_address_the_error_names_the_setting(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, address="")
    with pytest.raises(ValueError, match="PLUMBLINE_RAY_ADDRESS"):
        RayEngine(settings).submit(make_request(settings))


def test_a_cluster_that_does_not_answer_is_named_and_leaves_no_attempt(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    engine = RayEngine(settings)
    with pytest.raises(ConnectionError, match=r"The Ray cluster at http://127.0.0.1:9 does not answer"):
        engine.submit(make_request(settings))
    assert engine.status(HANDLE).state == "unknown"


def test_while_the_cluster_is_silent_the_drivers_last_state_holds_for_a_while(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    running = JobStatus(state="running", attempt=1, progress_done=3, progress_total=9, progress_unit="steps")
    record_attempt(settings, age_seconds=5000, status=running)
    assert RayEngine(settings).status(HANDLE) == running
    lost = RayEngine(settings, Ray(silence_seconds=1e-6)).status(HANDLE)
    assert lost.state == "lost"
    assert "does not answer" in lost.message


def test_an_old_attempt_of_a_silent_cluster_without_any_state_is_lost(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    record_attempt(settings, age_seconds=5000)
    assert RayEngine(settings).status(HANDLE).state == "lost"


def test_the_token_is_in_no_record_repr_or_error(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    engine = RayEngine(settings)
    record_attempt(settings, age_seconds=0, status=JobStatus(state="running", attempt=1))
    with pytest.raises(ConnectionError) as caught:
        engine.submit(make_request(settings).model_copy(update={"generation": 1}))
    written = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    for text in (repr(settings), repr(engine), str(caught.value), repr(caught.value.__cause__), written.decode()):
        assert TOKEN not in text


@pytest.mark.parametrize("job_id", ["../other", "a/b", "", "a b", ".."])
def test_a_job_id_cannot_leave_its_folder(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(ValueError, match="is not valid"):
        RayEngine(make_settings(tmp_path)).status(JobHandle(engine="ray", job_id=job_id))


class Head(BaseHTTPRequestHandler):
    """A dashboard that knows its version and one failed job."""

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self._answer(200, {"version": "4", "ray_version": "2.59.0", "ray_commit": ""})
        elif "words-train" in self.path:
            info = {"type": "SUBMISSION", "status": "FAILED", "entrypoint": "python", "submission_id": "x"}
            self._answer(200, {**info, "message": "exit code 1: No module named 'pipelines'"})
        else:
            self._answer(404, {})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def old_head() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Head)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_cluster_of_another_ray_version_is_named(old_head: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has Ray 2\.59\.0, this host 2\.60"):
        RayEngine(make_settings(tmp_path, old_head)).check(Placement(engine="ray"))


def test_a_driver_that_did_not_start_is_a_failure_with_rays_reason(old_head: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, old_head)
    record_attempt(settings, age_seconds=0)
    status = RayEngine(settings).status(HANDLE)
    assert (status.state, status.failure_kind) == ("failed", "crashed")
    assert "No module named 'pipelines'" in status.message


@pytest.mark.slow
def test_a_cluster_is_checked_for_token_version_and_room(
    ray_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RayEngine(make_settings(tmp_path, ray_nodes.address, ray_nodes.token))
    assert "room for 2 processes" in engine.check(Placement(engine="ray", num_processes=2))
    with pytest.raises(ValueError, match="has room for 2 processes of 1 CPU each, and the placement needs 3"):
        engine.check(Placement(engine="ray", num_processes=3))
    with pytest.raises(ValueError, match="has room for 0 processes of 1 CPU and 1 GPU each"):
        engine.check(Placement(engine="ray", gpus_per_process=1))
    with pytest.raises(ValueError, match="refuses the token"):
        RayEngine(make_settings(tmp_path, ray_nodes.address, "d" * 64)).check(Placement(engine="ray"))
    monkeypatch.setattr(engine_module, "our_version", lambda: "99.0")
    with pytest.raises(ValueError, match=f"has plumbline {versions.our_version()}, this host 99.0"):
        engine.check(Placement(engine="ray"))
