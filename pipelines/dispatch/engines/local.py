"""The engine of a single host: jobs under detached supervisors, identified by their folders.

All state is in `<state_dir>/jobs/<job_id>/` (see job_folder.py) and in the process table. Any process of this host can
therefore query a job, and a restarted engine knows everything that the previous one knew.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus, LogChunk, SubmittedJob
from pipelines.dispatch.engines.catalogue import Local
from pipelines.dispatch.engines.interface import TERMINAL_STATES
from pipelines.dispatch.environment import worker_environment
from pipelines.dispatch.job_folder import START_TIMEOUT_SECONDS, JobFolder, Launch
from pipelines.host import is_alive, kill_marked
from pipelines.settings import Settings
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "pipelines.dispatch.worker")
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
SUPERVISOR = (sys.executable, "-m", "pipelines.dispatch.supervisor")


class LocalEngine:
    """See `engines.interface.Engine`. `worker` is the command that a supervisor runs, followed by the job's folder."""

    def __init__(self, settings: Settings, params: Local | None = None, worker: Sequence[str] = WORKER) -> None:
        self.settings = settings
        self.params = params or Local()
        self._worker = tuple(worker)

    def submit(self, request: JobRequest) -> JobHandle:
        """See `Engine.submit`. ValueError when another spec uses this job id."""
        handle = JobHandle(engine=self.params.name, job_id=request.job_id)
        folder = self._folder(handle)
        with folder.locked():
            self._check_same_spec(folder, request)
            if folder.cancel_path.exists():
                self._stop(folder)
            # Under the lock no other process starts this job, so a supervisor without a record never started.
            status = self._status(folder, may_be_starting=False)
            if status.state not in TERMINAL_STATES | {"unknown"}:
                log.info("Job %s is already %s (attempt %d); reattached", handle.job_id, status.state, status.attempt)
            elif status.state == "succeeded" and self._answer(request) is not None:
                log.info("Job %s has already succeeded", handle.job_id)
            else:
                self._start(folder, request, attempt=status.attempt + 1)
        return handle

    def jobs(self) -> list[SubmittedJob]:
        """See `Engine.jobs`. A folder without a readable request is of a submit that was cut off."""
        folder = self.settings.state_dir / "jobs"
        paths = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        found = []
        for path in paths:
            own = JobFolder(path)
            request, started_at = own.read_request(), own.submitted_at()
            if request is not None and started_at is not None:
                handle = JobHandle(engine=self.params.name, job_id=path.name)
                found.append(SubmittedJob(handle=handle, request=request, started_at=started_at))
        return found

    def status(self, handle: JobHandle) -> JobStatus:
        """See `Engine.status`. `lost`: the supervisor disappeared before it could write a final status."""
        return self._status(self._folder(handle), may_be_starting=True)

    def _status(self, folder: JobFolder, may_be_starting: bool) -> JobStatus:
        supervisor = folder.read_supervisor()
        alive = is_alive(supervisor) or (supervisor is None and may_be_starting and folder.is_fresh())
        status = folder.read_status()  # read after checking the process, whose last act is to write it
        if status is None:
            return JobStatus(state="unknown")
        if status.state not in TERMINAL_STATES and not alive:
            if folder.cancel_path.exists():
                return status.model_copy(update={"state": "cancelled", "message": "Cancelled on request."})
            message = "The supervisor disappeared (killed, or the host restarted). Submit again to resume."
            return status.model_copy(update={"state": "lost", "message": message})
        progress = folder.read_progress()
        if progress is None:
            return status
        update = {"progress_done": progress.done, "progress_total": progress.total, "progress_unit": progress.unit}
        return status.model_copy(update=update)

    def logs(self, handle: JobHandle, cursor: int) -> LogChunk:
        """See `Engine.logs`. The cursor counts bytes over all attempts."""
        finished = self.status(handle).state in TERMINAL_STATES
        return self._folder(handle).read_logs(cursor, finished=finished)

    def log_location(self, handle: JobHandle) -> str:
        """See `Engine.log_location`."""
        return str(self._folder(handle).log_path(max(self.status(handle).attempt, 1)))

    def cancel(self, handle: JobHandle) -> None:
        """See `Engine.cancel`. A supervisor that does not respond in time is killed with its job."""
        folder = self._folder(handle)
        status = self.status(handle)
        if status.state == "unknown" or status.state in TERMINAL_STATES - {"lost"}:
            log.info("Job %s is %s; nothing to cancel", handle.job_id, status.state)
            return
        with folder.locked():
            folder.cancel_path.touch()
            self._stop(folder)

    def preempt(self, handle: JobHandle) -> None:
        """Stop every process of the job as a host does that goes away: a later submit is expected.

        An Airflow task that waits for the job submits it again, where it would fail after a cancel.
        """
        folder = self._folder(handle)
        if self.status(handle).state in ("pending", "running"):
            with folder.locked():
                self._stop(folder, state="preempted", message="Stopped with the platform.")

    def result(self, handle: JobHandle) -> dict[str, Any]:
        """See `Engine.result`."""
        request = self._folder(handle).read_request()
        if request is None:
            raise LookupError(f"Job {handle.job_id} was never submitted to this host.")
        answer = self._answer(request)
        if answer is None:
            raise LookupError(f"Job {handle.job_id} has no finished output at {request.output_uri}.")
        return answer

    def _folder(self, handle: JobHandle) -> JobFolder:
        if not JOB_ID.fullmatch(handle.job_id):
            raise ValueError(f"Job id {handle.job_id!r} is not valid. Only letters, digits, _ and - are allowed.")
        return JobFolder(self.settings.state_dir / "jobs" / handle.job_id)

    def _answer(self, request: JobRequest) -> dict[str, Any] | None:
        manifest = open_store(self.settings.store_uri, self.settings).read_manifest(request.output_uri)
        return manifest.value if manifest else None

    def _check_same_spec(self, folder: JobFolder, request: JobRequest) -> None:
        known = folder.read_request()
        if known is not None and known.spec_digest != request.spec_digest:
            raise ValueError(
                f"Job {request.job_id} is used by spec {known.spec_digest}, not {request.spec_digest}."
                " Raise the generation of this one."
            )

    def _start(self, folder: JobFolder, request: JobRequest, attempt: int) -> None:
        """Begin an attempt; return once its supervisor runs. RuntimeError when it cannot be started."""
        leftover = kill_marked(folder.path)
        if leftover:
            log.warning("Job %s: killed %d processes that the last attempt had left", request.job_id, leftover)
        folder.cancel_path.unlink(missing_ok=True)
        folder.work_dir.mkdir(parents=True, exist_ok=True)
        folder.write_request(request)
        launch = Launch(
            attempt=attempt,
            command=(*self._worker, str(folder.path)),
            timeout_seconds=request.placement.timeout_seconds,
            grace_seconds=self.params.grace_seconds,
        )
        folder.write_launch(launch)
        folder.forget_supervisor()
        folder.write_status(JobStatus(state="pending", attempt=attempt))
        self._spawn_supervisor(folder)
        log.info("Job %s: attempt %d started in %s", request.job_id, attempt, folder.path)

    def _spawn_supervisor(self, folder: JobFolder) -> None:
        output = folder.path / "supervisor.log"
        with output.open("ab") as stream:
            done = subprocess.run(
                [*SUPERVISOR, str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=worker_environment(self.settings, folder.path),
                cwd=folder.path,
                start_new_session=True,
                timeout=START_TIMEOUT_SECONDS,
                check=False,
            )
        if done.returncode:
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-40:])
            raise RuntimeError(f"The supervisor of {folder.path} did not start. The end of {output}:\n{tail}")

    def _stop(
        self,
        folder: JobFolder,
        state: Literal["cancelled", "preempted"] = "cancelled",
        message: str = "Cancelled on request.",
    ) -> None:
        """End the supervisor and its job; afterwards no process is left, whatever the supervisor did."""
        supervisor = folder.read_supervisor()
        deadline = time.monotonic() + self.params.grace_seconds + 5
        if supervisor is not None and is_alive(supervisor):
            with suppress(ProcessLookupError):
                os.kill(supervisor.pid, signal.SIGTERM)
        while is_alive(supervisor) and time.monotonic() < deadline:
            time.sleep(0.05)
        kill_marked(folder.path)
        status = folder.read_status()
        if status is not None and status.state not in TERMINAL_STATES:
            folder.write_status(status.model_copy(update={"state": state, "message": message}))
