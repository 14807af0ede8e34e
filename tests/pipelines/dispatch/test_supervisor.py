"""The status of an attempt's end: the supervisor as a process, over commands that end in every way."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.contracts.jobs import JobFailure
from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch.job_folder import JobFolder, Launch
from pipelines.host import _marked_pids, is_alive, kill_marked

pytestmark = pytest.mark.timeout(40)


def supervise(folder: JobFolder, command: tuple[str, ...], attempt: int = 1) -> JobStatus:
    folder.write_launch(Launch(attempt=attempt, command=command, timeout_seconds=20, grace_seconds=1))
    root = str(Path(__file__).parents[3])
    code = f"import sys; sys.path.insert(0, {root!r}); from pathlib import Path; "
    code += f"from pipelines.dispatch.supervisor import main; main(Path({str(folder.path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
    deadline = time.monotonic() + 20
    while is_alive(folder.read_supervisor()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    status = folder.read_status()
    assert status is not None
    return status


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "state", "kind", "exit_code", "words"),
    [
        ("pass", "succeeded", "", 0, ""),
        ("raise SystemExit(5)", "failed", "crashed", 5, "exited with 5"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "crashed", -9, "SIGKILL"),
        ("import os; os.abort()", "failed", "crashed", -6, "SIGABRT"),
        ("raise SystemExit(143)", "preempted", "preempted", 143, "SIGTERM"),
    ],
)
def test_every_ending_has_its_state(
    tmp_path: Path, code: str, state: str, kind: str, exit_code: int, words: str
) -> None:
    status = supervise(JobFolder(tmp_path), python(code))
    assert (status.state, status.failure_kind, status.exit_code, status.attempt) == (state, kind, exit_code, 1)
    assert words in status.message


def test_the_reason_of_an_earlier_attempt_is_forgotten(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.write_failure(JobFailure(kind="diverged", message="long ago"))
    status = supervise(folder, python("raise SystemExit(1)"), attempt=2)
    assert (status.failure_kind, status.attempt) == ("crashed", 2)


def test_the_workers_output_is_in_the_attempts_log_between_its_marks(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    supervise(folder, python("import sys; print('out'); print('err', file=sys.stderr)"))
    lines = folder.log_path(1).read_text().splitlines()
    assert lines[0].startswith("--- attempt 1, ")
    assert sorted(lines[1:-1]) == ["err", "out"]
    assert lines[-1] == "--- succeeded ---"


def test_an_attached_supervisor_ends_its_job_when_its_owner_is_gone(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    command = python("import time; print('begun', flush=True); time.sleep(60)")
    folder.write_launch(Launch(attempt=1, command=command, timeout_seconds=50, grace_seconds=1))
    root = str(Path(__file__).parents[3])
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "pipelines.dispatch.supervisor", str(tmp_path), "--attached"],
        stdin=subprocess.PIPE,
        cwd=root,
    )
    with supervisor:
        deadline = time.monotonic() + 20
        while not (folder.log_path(1).is_file() and "begun" in folder.log_path(1).read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert supervisor.poll() is None
        assert supervisor.stdin is not None
        supervisor.stdin.close()  # as the kernel does for an owner that was killed
        assert supervisor.wait(timeout=20) == 0
    status = folder.read_status()
    assert status is not None
    assert (status.state, status.exit_code) == ("preempted", -15)


def test_an_attached_job_ends_although_its_owner_and_what_the_owner_started_are_killed(tmp_path: Path) -> None:
    """A raylet kills an actor's direct children with it; what they started in other sessions must not outlive them."""
    folder = JobFolder(tmp_path)
    stray = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'], "
    command = python(f"{stray}start_new_session=True); time.sleep(30)")
    folder.write_launch(Launch(attempt=1, command=command, timeout_seconds=30, grace_seconds=1))
    owner = subprocess.Popen(
        [sys.executable, "-m", "pipelines.dispatch.supervisor", str(tmp_path), "--attached"],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PLUMBLINE_JOB_DIR": str(tmp_path)},
        cwd=tmp_path,
    )
    assert owner.stdin is not None
    try:
        wait_until(lambda: len(_marked_pids(tmp_path)) >= 4)
        owner.kill()
        owner.stdin.close()
        wait_until(lambda: not _marked_pids(tmp_path))
        status = folder.read_status()
        assert status is not None
        assert status.state == "preempted"
    finally:
        kill_marked(tmp_path)
        owner.wait(timeout=10)


def test_the_parent_of_an_attached_supervisor_sees_its_end(tmp_path: Path) -> None:
    """It carries the mark of the job as all of its processes do, and must outlive them: its end is the job's."""
    folder = JobFolder(tmp_path)
    folder.write_launch(Launch(attempt=1, command=python("pass"), timeout_seconds=30, grace_seconds=1))
    owner = subprocess.Popen(
        [sys.executable, "-m", "pipelines.dispatch.supervisor", str(tmp_path), "--attached"],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PLUMBLINE_JOB_DIR": str(tmp_path)},
        cwd=tmp_path,
    )
    with owner:
        assert owner.wait(timeout=20) == 0
        status = folder.read_status()
        assert status is not None
        assert status.state == "succeeded", "the status is written before its parent ends"


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)
