"""Run on the GPU host: fetch the inputs, run the alignment job, stream its metrics, publish its output.

`python -m pipelines.dispatch.worker JOB_DIR`, under a supervisor. On a cluster there is one worker for each rank; those
above rank 0 only fetch and run. Every step can be repeated: a second attempt finds
fetched inputs, checkpoints, or a finished result that only has to be published.
Exit codes: 0 published, 2 bad input, 143 stopped by SIGTERM, 1 anything else; failure.json in JOB_DIR has the reason.
"""

import errno
import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from alignment.contracts.jobs import (
    CHECKPOINTS_DIR,
    FAILURE_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    JobFailure,
    Placement,
)
from alignment.files.paths import resolve_below
from pipelines.contracts.jobs import JobRequest
from pipelines.dispatch.environment import alignment_environment
from pipelines.dispatch.feature_stream import FeatureStream
from pipelines.dispatch.inputs import link_inputs
from pipelines.dispatch.job_cost import charge, cost_record, keep_record, measured
from pipelines.dispatch.job_folder import JobFolder, read_model
from pipelines.dispatch.job_kinds import find_kind
from pipelines.dispatch.launch import job_command, must_use_cpu, own_rank, prepare_files
from pipelines.dispatch.live_metrics import LiveMetrics
from pipelines.host import signal_group
from pipelines.settings import Settings, load_settings
from pipelines.store.folders import hash_folder
from pipelines.store.storage import Store, open_store
from pipelines.tracking import open_runs, run_stream, runs

log = logging.getLogger(__name__)

TERMINATED = 128 + signal.SIGTERM
EXIT_CODES = {"bad_input": 2, "bad_data": 2, "preempted": TERMINATED}
STORAGE_FULL = {errno.ENOSPC, errno.EDQUOT}
STREAMING = {"train", "reference_errors"}
"""Kinds of job that can read a feature cache while it arrives."""
Command = Callable[[JobFolder, str, Placement], list[str]]
RUN_STATUS: dict[int, Literal["FINISHED", "KILLED"]] = {0: "FINISHED", TERMINATED: "KILLED"}


class _Stopped(BaseException):
    """SIGTERM arrived while no training process was running to receive it."""


class _JobError(Exception):
    """The job cannot continue; failure.json gets the reason."""

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Termination:
    """Handle SIGTERM: pass it to the training processes while there are any, else raise it in the worker."""

    def __init__(self) -> None:
        self.asked = False
        self._training: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._on_signal)

    def wait_for(self, training: subprocess.Popen[bytes]) -> int:
        """Return the exit code of the training processes, which get every SIGTERM in the meantime."""
        self._training = training
        try:
            return training.wait()
        finally:
            self._training = None

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._training is None:
            raise _Stopped
        signal_group(self._training.pid, signal.SIGTERM)


def main(job_dir: Path, command: Command = job_command) -> int:
    """Run the job of a folder; return the exit code. `command` starts its alignment job."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    folder = JobFolder(job_dir)
    request = folder.read_request()
    assert request is not None, f"{job_dir} has no request.json"
    settings = load_settings()
    code = _guarded(folder, request, settings, command=command)
    if own_rank():
        return code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the work is over; the remaining steps are short and should finish
    _charge(folder, request, settings)
    _close_run(folder, request, settings, code=code)
    return code


def _guarded(folder: JobFolder, request: JobRequest, settings: Settings, *, command: Command) -> int:
    """Run the job; any failure becomes a failure.json and an exit code."""
    try:
        _run_job(folder, request, settings, termination=_Termination(), command=command)
    except _Stopped:
        failure = JobFailure(kind="preempted", message="Stopped by SIGTERM.")
    except _JobError as error:
        failure = error.failure
    except ValueError as error:
        failure = JobFailure(kind="bad_input", message=str(error))
    except OSError as error:
        kind: Literal["storage_full", "crashed"] = "storage_full" if error.errno in STORAGE_FULL else "crashed"
        failure = JobFailure(kind=kind, message=str(error))
        log.exception("The worker failed")
    except Exception as error:
        failure = JobFailure(kind="crashed", message=f"{type(error).__name__}: {error}")
        log.exception("The worker failed")
    else:
        return 0
    log.error("%s: %s", failure.kind, failure.message)
    with suppress(OSError):
        folder.write_failure(failure)
    return EXIT_CODES.get(failure.kind, 1)


def _run_job(
    folder: JobFolder, request: JobRequest, settings: Settings, *, termination: _Termination, command: Command
) -> None:
    """Fetch, run, publish; steps that an earlier attempt finished are skipped."""
    if open_store(settings.store_uri, settings).read_manifest(request.output_uri) is not None:
        log.info("%s is already finished", request.output_uri)
        return
    streams: list[FeatureStream] = []
    if (folder.out_dir / RESULT_FILE).is_file():
        log.info("An earlier attempt has the result; only publishing is left")
    else:
        with _bad_data():
            streaming = streams if request.kind in STREAMING else None
            link_inputs(request.inputs, folder.inputs_dir, settings, streaming)
    prepare_files(folder, request)
    if own_rank():
        _align(folder, request, termination, command=command, streams=streams)
        return
    with _live_metrics(folder, request, settings):
        _align(folder, request, termination, command=command, streams=streams)
    _publish(folder, request, open_store(settings.store_uri, settings))


def _align(
    folder: JobFolder,
    request: JobRequest,
    termination: _Termination,
    *,
    command: Command,
    streams: Sequence[FeatureStream],
) -> None:
    """Run the alignment job beside the streams of its features, unless an earlier attempt has the result."""
    if (folder.out_dir / RESULT_FILE).is_file():
        return
    with _bad_data(), ExitStack() as running:
        for stream in streams:
            running.enter_context(stream.running())
        _run_alignment(folder, request, termination, command=command)


@contextmanager
def _bad_data() -> Iterator[None]:
    """Report a ValueError about an input as bad data."""
    try:
        yield
    except ValueError as error:
        raise _JobError(JobFailure(kind="bad_data", message=str(error))) from error


def _run_alignment(folder: JobFolder, request: JobRequest, termination: _Termination, *, command: Command) -> None:
    """Run the alignment job to its end; raise the error that it reports."""
    (folder.out_dir / FAILURE_FILE).unlink(missing_ok=True)
    placement = request.placement
    cpu = must_use_cpu()
    with measured(folder, cpu=cpu):
        training = subprocess.Popen(
            command(folder, request.kind, placement),
            stdin=subprocess.DEVNULL,
            env=alignment_environment(placement.threads_per_process, cpu=cpu),
            cwd=folder.work_dir,
            start_new_session=True,
        )
        code = termination.wait_for(training)
    if code == 0 and (own_rank() or (folder.out_dir / RESULT_FILE).is_file()):
        return
    failure = _with_checkpoint(read_model(folder.out_dir / FAILURE_FILE, JobFailure), folder)
    if termination.asked and (failure is None or failure.kind != "preempted"):
        raise _Stopped  # an error that a process reports while it is stopped is not the cause
    raise _JobError(failure or _unexplained(code))


def _publish(folder: JobFolder, request: JobRequest, store: Store) -> None:
    """Upload side outputs, then the output with its value object in the manifest; then delete the checkpoints."""
    result: dict[str, Any] = json.loads((folder.out_dir / RESULT_FILE).read_text(encoding="utf-8"))
    result["uri"] = request.output_uri
    for side in request.side_outputs:
        store.publish_folder(resolve_below(folder.out_dir, side.path), side.uri, {"job_id": request.job_id})
    left_out = [CHECKPOINTS_DIR, PROGRESS_FILE, RESULT_FILE, FAILURE_FILE, *(s.path for s in request.side_outputs)]
    left_out += find_kind(request.kind).left_out
    if "content_digest" in result:
        # A job knows the files it wrote; the published folder may contain one or two more.
        result["content_digest"], _files = hash_folder(folder.out_dir, left_out)
    # Before the manifest: once that exists, no later attempt runs to keep the record.
    keep_record(folder, request, store)
    store.publish_folder(folder.out_dir, request.output_uri, result, exclude=left_out)
    log.info("Published %s", request.output_uri)
    shutil.rmtree(folder.out_dir / CHECKPOINTS_DIR, ignore_errors=True)


def _live_metrics(folder: JobFolder, request: JobRequest, settings: Settings) -> AbstractContextManager[Any]:
    """Stream to the run of the request, after setting it to RUNNING: it may be closed since the last attempt."""
    target, launch = request.tracking, folder.read_launch()
    if target is None:
        return nullcontext()

    def open_stream() -> run_stream.RunStream:
        open_runs.start_attempt(settings, target.run_id, launch.attempt if launch else 1)
        return run_stream.RunStream(settings.tracking_uri, target.run_id)

    return LiveMetrics(folder.out_dir, folder.work_dir / "tracking_cursor.json", open_stream)


def _charge(folder: JobFolder, request: JobRequest, settings: Settings) -> None:
    """Add the time of an attempt that failed to the account; if the store refuses it, the next attempt adds it."""
    try:
        charge(folder, request, open_store(settings.store_uri, settings))
    except Exception as error:
        log.warning("The time of this attempt is not in the account of the project yet: %s", error)


def _close_run(folder: JobFolder, request: JobRequest, settings: Settings, *, code: int) -> None:
    """Log the job's cost and close the run; an unavailable server leaves it RUNNING, see sweeper.py."""
    if request.tracking is None:
        return
    try:
        open_runs.log_cost(settings, request.tracking.run_id, cost_record(folder, request))
        runs.finish_run(settings, request.tracking.run_id, RUN_STATUS.get(code, "FAILED"))
    except Exception as error:
        log.warning("The run could not be closed: %s", error)


def _with_checkpoint(failure: JobFailure | None, folder: JobFolder) -> JobFailure | None:
    """Add the last good checkpoint to the message of a run that diverged."""
    if failure is None or failure.kind != "diverged":
        return failure
    kept = sorted(path.parent for path in (folder.out_dir / CHECKPOINTS_DIR).glob("*/manifest.json"))
    last = f"The last good checkpoint is {kept[-1]}." if kept else "It diverged before the first checkpoint."
    return failure.model_copy(update={"message": f"{failure.message} {last}"})


def _unexplained(code: int) -> JobFailure:
    if code in (TERMINATED, -signal.SIGTERM):
        return JobFailure(kind="preempted", message="The training processes were stopped by SIGTERM.")
    by = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return JobFailure(kind="crashed", message=f"The training processes ended with {by} and left no reason.")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
