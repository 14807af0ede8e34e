"""Watch one attempt of a job: `python -m pipelines.dispatch.supervisor JOB_DIR [--attached]`.

The process detaches itself, so that the job outlives its submitter, runs the command of launch.json in a separate
process group, and writes status.json last. It passes SIGTERM on; processes left after the grace period are killed.
With --attached it does not detach, and the end of its standard input counts as a SIGTERM: the job ends with its owner.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from alignment.contracts.jobs import FAILURE_FILE
from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch.job_folder import JobFolder, Launch
from pipelines.host import kill_marked, record_of, signal_group

POLL_SECONDS = 0.1
TERMINATED = 128 + signal.SIGTERM


class _StopRequest:
    """Set by SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def follow_input(self) -> None:
        """Wait for the end of the standard input, which an owner that was killed closes too."""
        while os.read(sys.stdin.fileno(), 1024):
            pass
        self.asked = True


def main(job_dir: Path) -> None:
    """Fork the supervisor, record its process, and return; the supervisor itself leaves through os._exit."""
    folder = JobFolder(job_dir)
    stop = _StopRequest()
    child = os.fork()
    if child:
        folder.write_supervisor(record_of(child))
        return
    os.setsid()
    code = 1
    try:
        _supervise(folder, stop)
        code = 0
    finally:
        os._exit(code)


def attend(job_dir: Path) -> int:
    """Supervise in a child process until the job or the standard input ends; return 0 if that went well.

    Whoever kills the owner may kill its direct children too, as a raylet does with an actor's. The supervisor is no
    such child: it survives, sees its input end, and ends all processes of the job.
    """
    folder = JobFolder(job_dir)
    stop = _StopRequest()
    child = os.fork()
    if child:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: _pass_on(child, number))
        if stop.asked:  # between the fork and the line above
            _pass_on(child, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.setsid()
    code = 1
    try:
        folder.write_supervisor(record_of(os.getpid()))
        threading.Thread(target=stop.follow_input, daemon=True).start()
        _supervise(folder, stop)
        code = 0
    finally:
        os._exit(code)


def _pass_on(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _supervise(folder: JobFolder, stop: _StopRequest) -> None:
    """Run the attempt of launch.json to its end and write its final status."""
    launch = folder.read_launch()
    assert launch is not None, f"{folder.path} has no launch.json"
    (folder.path / FAILURE_FILE).unlink(missing_ok=True)
    with folder.log_path(launch.attempt).open("ab") as log:
        log.write(f"--- attempt {launch.attempt}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC ---\n".encode())
        log.flush()
        status = _run(folder, launch, stop, log=log)
        log.write(f"--- {status.state}{': ' if status.message else ''}{status.message} ---\n".encode())
    folder.write_status(status)


def _run(folder: JobFolder, launch: Launch, stop: _StopRequest, *, log: BinaryIO) -> JobStatus:
    try:
        process = subprocess.Popen(
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder.path,
        )
    except OSError as error:
        return JobStatus(state="failed", attempt=launch.attempt, failure_kind="crashed", message=str(error))
    folder.write_status(JobStatus(state="running", attempt=launch.attempt))
    timed_out = _watch(process, folder, launch, stop=stop)
    _end_all(folder)
    return _final_status(folder, launch, process.wait(), stopped=stop.asked, timed_out=timed_out)


def _watch(process: subprocess.Popen[bytes], folder: JobFolder, launch: Launch, *, stop: _StopRequest) -> bool:
    """Wait for the worker. After a timeout or a request to stop, terminate it and, after the grace, kill all it
    started.

    Return True when the time ran out.
    """
    times_out_at = time.monotonic() + launch.timeout_seconds
    killed_at: float | None = None
    timed_out = False
    while process.poll() is None:
        now = time.monotonic()
        if killed_at is None and (stop.asked or now > times_out_at):
            timed_out = not stop.asked
            signal_group(process.pid, signal.SIGTERM)
            killed_at = now + launch.grace_seconds
        if killed_at is not None and now > killed_at:
            _end_all(folder)
        time.sleep(POLL_SECONDS)
    return timed_out


def _end_all(folder: JobFolder) -> None:
    """Kill what is left of the job; the parent of an attached supervisor carries its mark too, and waits for it."""
    kill_marked(folder.path, spared=os.getppid())


def _final_status(folder: JobFolder, launch: Launch, code: int, *, stopped: bool, timed_out: bool) -> JobStatus:
    """Derive the final status from an exit code, a failure.json and the reason to stop."""
    status = JobStatus(state="failed", attempt=launch.attempt, exit_code=code, failure_kind="crashed")
    failure = folder.read_failure()
    if code == 0:
        return JobStatus(state="succeeded", attempt=launch.attempt, exit_code=0)
    if folder.cancel_path.exists():
        return status.model_copy(update={"state": "cancelled", "failure_kind": "", "message": "Cancelled on request."})
    if timed_out:
        message = f"Ran longer than placement.timeout_seconds = {launch.timeout_seconds:.0f}; raise it or resume."
        return status.model_copy(update={"message": message})
    preempted = failure is not None and failure.kind == "preempted"
    if stopped or preempted or code in (TERMINATED, -signal.SIGTERM):
        message = failure.message if failure is not None and preempted else "Stopped by SIGTERM."
        return status.model_copy(update={"state": "preempted", "failure_kind": "preempted", "message": message})
    if failure is not None:
        return status.model_copy(update={"failure_kind": failure.kind, "message": failure.message})
    return status.model_copy(update={"message": _exit_message(code)})


def _exit_message(code: int) -> str:
    if code == -signal.SIGKILL:
        return "The worker was killed by SIGKILL (out of memory, or manually)."
    if code < 0:
        return f"The worker was ended by signal {signal.Signals(-code).name}."
    return f"The worker exited with {code} and left no reason."


if __name__ == "__main__":
    sys.exit((attend if "--attached" in sys.argv else main)(Path(sys.argv[1]).absolute()))
