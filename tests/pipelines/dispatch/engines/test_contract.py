"""The contract of engines.interface.Engine, run against every engine with real processes and real signals."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_requests import counting_request

from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus
from pipelines.dispatch.cluster.attempts import cluster_name
from pipelines.dispatch.engines.catalogue import Local, Ray
from pipelines.dispatch.engines.interface import TERMINAL_STATES, Engine
from pipelines.dispatch.engines.local import LocalEngine
from pipelines.dispatch.engines.ray import RayEngine
from pipelines.host import _marked_pids, _start_ticks, kill_marked
from pipelines.settings import Settings, load_settings

FAST_ON_RAY = {
    "test_another_process_can_query_cancel_and_reattach",
    "test_the_log_cursor_continues_over_attempts_and_engines",
}
"""Tests that `make test` also runs on a Ray cluster. The others do so in `make test-loop`: a start takes seconds there.
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER = (sys.executable, str(Path(__file__).with_name("counting_worker.py")))


def make_local(settings: Settings) -> Engine:
    return LocalEngine(settings, Local(grace_seconds=2), worker=WORKER)


def make_ray(settings: Settings) -> Engine:
    return RayEngine(settings, Ray(grace_seconds=2), worker=WORKER)


ENGINES: dict[str, Callable[[Settings], Engine]] = {"local": make_local, "ray": make_ray}
"""Build an engine whose worker is counting_worker.py. A new engine is added here."""


class Bench:
    """An engine over a fresh state folder, and ways to watch and to damage its jobs."""

    folder = "jobs"
    """Folder of the folders of all jobs' processes, below those of `roots`."""
    patience = 1
    """Factor on every wait."""
    surely_saved = 3
    """Count at which an earlier one has been saved where a later attempt finds it."""
    orphan_seconds = 3
    """Longest life of a job's processes after their watcher was killed and the job was cancelled."""

    def __init__(self, name: str, environ: dict[str, str]) -> None:
        self.name = name
        self.environ = environ
        self.settings = load_settings(environ)
        self.engine = ENGINES[name](self.settings)
        self.roots = [self.settings.state_dir]

    def request(self, **spec: Any) -> JobRequest:
        spec = {"count": 3, **spec}
        timeout = spec.pop("timeout_seconds", 50)
        return counting_request(self.settings.store_uri, spec, engine=self.name, timeout_seconds=timeout)

    def job_dir(self, handle: JobHandle) -> Path:
        """Folder of the job's present processes: on the only host, or on the node that started them last."""
        found = [root / self.folder / self.name_of(handle) for root in self.roots]
        started = {path: path / "supervisor.json" for path in found}
        return max(found, key=lambda path: started[path].stat().st_mtime if started[path].is_file() else 0.0)

    def name_of(self, handle: JobHandle) -> str:
        return handle.job_id

    def out(self, handle: JobHandle) -> Path:
        return self.job_dir(handle) / "work" / "out"

    def kill_watcher(self, handle: JobHandle) -> None:
        """Kill the process that would write the job's final status."""
        os.kill(self.pids(handle)["parent"], signal.SIGKILL)

    def has_pids_other_than(self, handle: JobHandle, first: dict[str, int]) -> bool:
        """Return True once a later attempt has written its processes; its folder may be another node's, and empty."""
        with contextlib.suppress(FileNotFoundError):
            return self.pids(handle)["worker"] != first["worker"]
        return False

    def pids(self, handle: JobHandle) -> dict[str, int]:
        pids: dict[str, int] = json.loads((self.out(handle) / "pids.json").read_text())
        return pids

    def wait_for(self, handle: JobHandle, *states: str, seconds: float = 30) -> JobStatus:
        return wait_until(lambda: self._in(handle, states), f"{states}", seconds * self.patience)

    def _in(self, handle: JobHandle, states: tuple[str, ...]) -> JobStatus | None:
        status = self.engine.status(handle)
        assert status.state in states or status.state not in TERMINAL_STATES, status
        return status if status.state in states else None

    def wait_for_count(self, handle: JobHandle, number: int, attempt: int = 1) -> None:
        def counted() -> bool:
            path = self.out(handle) / "count"
            return path.exists() and int(path.read_text() or 0) >= number

        wait_until(
            lambda: self.engine.status(handle).attempt == attempt and counted(),
            f"a count of {number}",
            30 * self.patience,
        )

    def wait_for_nothing_left(self, handle: JobHandle, seconds: float = 0.0) -> None:
        """Wait until no process is left; the supervisor still has to exit after its last write."""
        seconds = seconds or 3 * self.patience
        wait_until(lambda: not _marked_pids(self.job_dir(handle)), "every process to be gone", seconds)

    def log(self, handle: JobHandle, cursor: int = 0) -> list[str]:
        lines: list[str] = []
        while (chunk := self.engine.logs(handle, cursor)).cursor != cursor:
            lines += chunk.lines
            cursor = chunk.cursor
        return lines


def wait_until(ready: Callable[[], Any], what: str, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.03)
    return found


class RayBench(Bench):
    """Jobs of one rank on a cluster of two nodes, each with its own state folder."""

    folder = "ranks"
    patience = 4
    surely_saved = 50  # ranks save every two seconds
    orphan_seconds = 60  # they end by themselves, on whatever node they are

    def __init__(self, environ: dict[str, str], nodes: Any) -> None:
        environ = {**environ, "PLUMBLINE_RAY_ADDRESS": nodes.address, "RAY_AUTH_TOKEN": nodes.token}
        super().__init__("ray", environ)
        self.roots = [nodes.state_dir(node) for node in sorted(nodes.sessions)]

    def name_of(self, handle: JobHandle) -> str:
        return f"{cluster_name(self.settings.store_uri, handle.job_id)}-00000"

    def kill_watcher(self, handle: JobHandle) -> None:
        """Kill the driver, found by its command line."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                if "pipelines.dispatch.cluster.driver" in words and handle.job_id in words:
                    os.kill(int(entry.name), signal.SIGKILL)


@pytest.fixture(params=sorted(ENGINES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    environ = {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    if request.param == "ray":
        bench: Bench = RayBench(environ, request.getfixturevalue("ray_nodes"))
    else:
        bench = Bench("local", environ)
    known: list[JobHandle] = []
    submit = bench.engine.submit

    def noted(job: JobRequest) -> JobHandle:
        known.append(submit(job))
        return known[-1]

    bench.engine.submit = noted  # type: ignore[method-assign]
    yield bench
    for handle in known:
        bench.engine.cancel(handle)
    for root in bench.roots:
        for job_dir in (root / bench.folder).glob("*"):
            kill_marked(job_dir)


def test_a_job_runs_once_and_returns_its_result(bench: Bench) -> None:
    request = bench.request()
    handle = bench.engine.submit(request)
    assert handle == JobHandle(engine=bench.name, job_id=request.job_id)
    status = bench.wait_for(handle, "succeeded")
    assert (status.attempt, status.exit_code, status.progress_done, status.progress_total) == (1, 0, 3, 3)
    assert bench.engine.result(handle) == {"counted": 3, "uri": request.output_uri}
    assert [(job.handle, job.request.spec) for job in bench.engine.jobs()] == [(handle, request.spec)]
    bench.wait_for_nothing_left(handle)


def test_a_duplicate_submit_reattaches_and_after_success_does_nothing(bench: Bench) -> None:
    request = bench.request()
    handle = bench.engine.submit(request)
    assert bench.engine.submit(request) == handle
    bench.wait_for(handle, "succeeded")
    assert bench.engine.submit(request) == handle
    assert bench.engine.status(handle).attempt == 1
    assert bench.log(handle).count("counting from 0") == 1


def test_a_success_whose_output_was_deleted_runs_again(bench: Bench) -> None:
    request = bench.request(count=1)
    handle = bench.engine.submit(request)
    bench.wait_for(handle, "succeeded")
    Path(request.output_uri.removeprefix("file://"), "manifest.json").unlink()
    with pytest.raises(LookupError, match="no finished output"):
        bench.engine.result(handle)
    bench.engine.submit(request)
    wait_until(
        lambda: bench.engine.status(handle) if bench.engine.status(handle).attempt == 2 else None,
        "attempt 2",
        9 * bench.patience,
    )
    bench.wait_for(handle, "succeeded")
    assert bench.engine.result(handle)["counted"] == 1


def test_submits_of_one_job_from_several_processes_start_it_once(bench: Bench) -> None:
    request = bench.request(count=10)
    racers = [start_elsewhere(bench, "print(engine.submit(request).job_id)", request) for _ in range(3)]
    ids = {output(racer) for racer in racers}
    assert ids == {request.job_id}
    handle = JobHandle(engine=bench.name, job_id=request.job_id)
    bench.wait_for(handle, "succeeded")
    assert [line for line in bench.log(handle) if line.startswith("counting")] == ["counting from 0"]


def test_another_spec_under_the_same_id_is_refused(bench: Bench) -> None:
    request = bench.request()
    bench.engine.submit(request)
    other = request.model_copy(update={"spec_digest": request.spec_digest[:12] + "0" * 52})
    with pytest.raises(ValueError, match="Raise the generation"):
        bench.engine.submit(other)


def test_a_crashed_worker_fails_and_a_new_submit_resumes(bench: Bench) -> None:
    request = bench.request(crash_at=2)
    handle = bench.engine.submit(request)
    status = bench.wait_for(handle, "failed")
    assert (status.exit_code, status.failure_kind) == (7, "crashed")
    bench.engine.submit(request)
    assert bench.wait_for(handle, "succeeded", "pending", "running").attempt == 2
    bench.wait_for(handle, "succeeded")
    assert [line for line in bench.log(handle) if line.startswith("counting")] == ["counting from 0", "counting from 2"]


@pytest.mark.parametrize("kind", ["bad_input", "bad_data", "diverged", "storage_full"])
def test_a_failure_that_the_job_explains_keeps_its_kind_and_message(bench: Bench, kind: str) -> None:
    handle = bench.engine.submit(bench.request(count=1, fail=kind))
    status = bench.wait_for(handle, "failed")
    assert (status.failure_kind, status.message, status.exit_code) == (kind, f"it is {kind}", 2)


def test_a_killed_worker_leaves_no_child_and_resumes(bench: Bench) -> None:
    request = bench.request(count=15)
    handle = bench.engine.submit(request)
    bench.wait_for_count(handle, 3)
    os.killpg(bench.pids(handle)["worker"], signal.SIGKILL)
    status = bench.wait_for(handle, "failed")
    assert status.failure_kind == "crashed"
    assert "SIGKILL" in status.message
    assert _start_ticks(bench.pids(handle)["child"]) is None
    bench.engine.submit(request)
    bench.wait_for_count(handle, 4, attempt=2)
    bench.wait_for(handle, "succeeded")
    resumed = [line for line in bench.log(handle) if line.startswith("counting from")]
    assert len(resumed) == 2
    assert int(resumed[1].split()[-1]) >= 3


def test_sigterm_to_the_supervisor_preempts_and_a_new_submit_resumes(bench: Bench) -> None:
    request = bench.request(count=15)
    handle = bench.engine.submit(request)
    bench.wait_for_count(handle, 3)
    os.kill(bench.pids(handle)["parent"], signal.SIGTERM)
    status = bench.wait_for(handle, "preempted")
    assert (status.failure_kind, status.exit_code) == ("preempted", 143)
    bench.wait_for_nothing_left(handle)
    bench.engine.submit(request)
    bench.wait_for(handle, "succeeded", "pending", "running")
    bench.wait_for(handle, "succeeded")
    assert bench.engine.status(handle).attempt == 2


def test_sigterm_to_the_worker_alone_is_a_preemption_too(bench: Bench) -> None:
    handle = bench.engine.submit(bench.request(count=50))
    bench.wait_for_count(handle, 2)
    os.kill(bench.pids(handle)["worker"], signal.SIGTERM)
    assert bench.wait_for(handle, "preempted").exit_code == 143


def test_a_killed_supervisor_is_lost_and_a_new_submit_kills_its_processes(bench: Bench) -> None:
    request = bench.request(count=600)
    handle = bench.engine.submit(request)
    bench.wait_for_count(handle, bench.surely_saved)
    first = bench.pids(handle)
    bench.kill_watcher(handle)
    bench.wait_for(handle, "lost")
    if bench.name == "local":
        assert _start_ticks(first["worker"]) is not None, "the worker continues without its supervisor until a submit"
    bench.engine.submit(request)
    old = [first["worker"], first["child"]]
    seconds = 0.1 if bench.name == "local" else bench.orphan_seconds
    wait_until(lambda: not any(map(_start_ticks, old)), "the processes of the first attempt to end", seconds)
    wait_until(lambda: bench.has_pids_other_than(handle, first), "another worker", 30 * bench.patience)
    bench.wait_for_count(handle, 5, attempt=2)
    bench.wait_for(handle, "running")
    bench.engine.cancel(handle)
    assert [line for line in bench.log(handle) if line.startswith("counting from")][-1] != "counting from 0"


def test_cancel_ends_every_process_and_a_new_submit_resumes(bench: Bench) -> None:
    request = bench.request(count=20 * bench.patience)
    handle = bench.engine.submit(request)
    bench.wait_for_count(handle, 3)
    bench.engine.cancel(handle)
    assert bench.engine.status(handle).state == "cancelled"
    bench.wait_for_nothing_left(handle)
    bench.engine.submit(request)
    bench.wait_for_count(handle, 4, attempt=2)
    bench.wait_for(handle, "succeeded")


def test_cancel_of_a_job_that_ignores_sigterm_kills_it_after_the_grace(bench: Bench) -> None:
    handle = bench.engine.submit(bench.request(count=300, stubborn=True))
    bench.wait_for_count(handle, 2)
    started = time.monotonic()
    bench.engine.cancel(handle)
    assert 1.5 < time.monotonic() - started < 6 * bench.patience
    assert bench.engine.status(handle).state == "cancelled"
    bench.wait_for_nothing_left(handle)


def test_cancel_of_a_lost_job_kills_its_processes(bench: Bench) -> None:
    handle = bench.engine.submit(bench.request(count=300))
    bench.wait_for_count(handle, 1)
    bench.kill_watcher(handle)
    bench.wait_for(handle, "lost")
    bench.engine.cancel(handle)
    assert bench.engine.status(handle).state == "cancelled"
    bench.wait_for_nothing_left(handle, bench.orphan_seconds)


def test_cancel_of_a_finished_or_unknown_job_changes_nothing(bench: Bench) -> None:
    handle = bench.engine.submit(bench.request(count=1))
    bench.wait_for(handle, "succeeded")
    bench.engine.cancel(handle)
    assert bench.engine.status(handle).state == "succeeded"
    unknown = JobHandle(engine=bench.name, job_id="count-train-nobody-g0")
    bench.engine.cancel(unknown)
    assert bench.engine.status(unknown).state == "unknown"
    with pytest.raises(LookupError, match="never submitted"):
        bench.engine.result(unknown)


def test_a_job_out_of_time_is_stopped_and_names_the_limit(bench: Bench) -> None:
    handle = bench.engine.submit(bench.request(count=300, timeout_seconds=1))
    status = bench.wait_for(handle, "failed")
    assert "placement.timeout_seconds = 1" in status.message
    assert status.failure_kind == "crashed"
    bench.wait_for_nothing_left(handle)


def test_another_process_can_query_cancel_and_reattach(bench: Bench) -> None:
    request = bench.request(count=300)
    handle = bench.engine.submit(request)
    bench.wait_for_count(handle, 2)
    script = "handle = engine.submit(request); print(engine.status(handle).state); engine.cancel(handle)"
    assert output(start_elsewhere(bench, script, request)) == "running"
    assert bench.engine.status(handle).state == "cancelled"
    assert bench.engine.status(handle).attempt == 1


def test_the_job_outlives_the_process_that_submitted_it(bench: Bench) -> None:
    request = bench.request(count=10)
    submitter = start_elsewhere(bench, "import os, signal; engine.submit(request); os.kill(os.getpid(), 9)", request)
    submitter.communicate(timeout=90)
    assert submitter.returncode == -signal.SIGKILL
    bench.wait_for(JobHandle(engine=bench.name, job_id=request.job_id), "succeeded")


def test_the_log_cursor_continues_over_attempts_and_engines(bench: Bench) -> None:
    request = bench.request(count=12)
    handle = bench.engine.submit(request)
    bench.wait_for_count(handle, 3)
    first = bench.engine.logs(handle, 0)
    os.killpg(bench.pids(handle)["worker"], signal.SIGKILL)
    bench.wait_for(handle, "failed")
    bench.engine = ENGINES[bench.name](bench.settings)
    bench.engine.submit(request)
    bench.wait_for_count(handle, 4, attempt=2)
    bench.wait_for(handle, "succeeded")
    assert bench.engine.result(handle) == {"counted": 12, "uri": request.output_uri}
    lines = [*first.lines, *bench.log(handle, first.cursor)]
    assert lines == bench.log(handle, 0), "a line was lost or came twice"
    numbers = [int(line.split()[1]) for line in lines if line.startswith("number")]
    assert set(numbers) == set(range(1, 13))
    assert [line.split(",")[0] for line in lines if line.startswith("--- attempt")] == [
        "--- attempt 1",
        "--- attempt 2",
    ]


def start_elsewhere(bench: Bench, script: str, request: JobRequest) -> subprocess.Popen[str]:
    """Run a line in a fresh process that has `engine` and `request`."""
    code = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('contract', {__file__!r})\n"
        "contract = importlib.util.module_from_spec(spec); sys.modules['contract'] = contract\n"
        "spec.loader.exec_module(contract)\n"
        "settings = contract.load_settings()\n"
        "request = contract.JobRequest.model_validate_json(sys.argv[1])\n"
        f"engine = contract.ENGINES[{bench.name!r}](settings)\n" + script
    )
    arguments = [sys.executable, "-c", code, request.model_dump_json()]
    root = Path(__file__).parents[4]
    environ = {**os.environ, **bench.environ, "PYTHONPATH": f"{root}:{root / 'tests' / 'cluster'}"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environ)


def output(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return text.strip()
