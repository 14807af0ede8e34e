"""Run a JobRequest from submission to result: find a finished one, submit, poll, collect, or explain the failure."""

import logging
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus
from pipelines.dispatch.engines.catalogue import open_engine
from pipelines.dispatch.engines.interface import TERMINAL_STATES, Engine
from pipelines.dispatch.job_titles import job_title
from pipelines.records.jobs import note_starter
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store
from pipelines.tracking import pages, runs

log = logging.getLogger(__name__)

SHOWN_LOG_LINES = 40
POLL_SECONDS = 1.0


class JobError(RuntimeError):
    """A job returned no result. The message has the kind, the job, its last log lines and the location of the log."""


class ConfigError(JobError, ValueError):
    """The spec or a folder it names is wrong; a person has to fix it."""


class DataError(JobError):
    """The data is wrong or changed; a person has to fix it."""


class Diverged(JobError):  # noqa: N818
    """The loss diverged; the last good checkpoint is kept. Another recipe is needed."""


class StorageFull(JobError):  # noqa: N818
    """No space for a checkpoint or an output; finished files are intact."""


class OutOfMemory(JobError):  # noqa: N818
    """The device lacks the memory that the job needs; a smaller micro-batch may fit."""


class Preempted(JobError):  # noqa: N818
    """The job received a request to stop and resumes from its checkpoint."""


class JobCancelled(JobError):  # noqa: N818
    """The job was cancelled; a new submit resumes it."""


class EngineLost(JobError):  # noqa: N818
    """The engine does not know how the job ended; a new submit resumes it."""


class JobCrashed(JobError):  # noqa: N818
    """The job ended in an unforeseen way; a new submit resumes it."""


_BY_STATE: Mapping[str, type[JobError]] = {
    "preempted": Preempted,
    "cancelled": JobCancelled,
    "lost": EngineLost,
    "unknown": EngineLost,
}
_BY_FAILURE: Mapping[str, type[JobError]] = {
    "bad_input": ConfigError,
    "bad_data": DataError,
    "diverged": Diverged,
    "preempted": Preempted,
    "storage_full": StorageFull,
    "out_of_memory": OutOfMemory,
}


def fetch_answer(request: JobRequest, store: Store) -> dict[str, Any] | None:
    """Return the value object of a request that already has a result, on any engine; None while there is none."""
    manifest = store.read_manifest(request.output_uri)
    return manifest.value if manifest else None


def _submit(request: JobRequest, settings: Settings, engine: Engine | None = None) -> JobHandle:
    """Submit to the engine of the placement; see `Engine.submit`."""
    return (engine or open_engine(request.placement.engine, settings)).submit(request)


def poll(handle: JobHandle, settings: Settings, engine: Engine | None = None) -> JobStatus:
    """Return the state of a job."""
    return (engine or open_engine(handle.engine, settings)).status(handle)


def cancel(handle: JobHandle, settings: Settings, engine: Engine | None = None) -> None:
    """Stop a job; see `Engine.cancel`."""
    (engine or open_engine(handle.engine, settings)).cancel(handle)


def collect(handle: JobHandle, settings: Settings, engine: Engine | None = None) -> dict[str, Any]:
    """Return the value object of a job that has ended; raise the JobError of its kind when it has none."""
    engine = engine or open_engine(handle.engine, settings)
    status = engine.status(handle)
    if status.state != "succeeded":
        raise _job_error(handle, status, engine)
    try:
        return engine.result(handle)
    except LookupError as error:
        raise EngineLost(f"Job {handle.job_id} succeeded, but {error} Submit it again.") from error


def _job_error(handle: JobHandle, status: JobStatus, engine: Engine) -> JobError:
    """Return the exception for a status that is not success."""
    error_class = _BY_STATE.get(status.state) or _BY_FAILURE.get(status.failure_kind, JobCrashed)
    lines = _last_log_lines(handle, engine)
    shown = "\n".join(f"  {line}" for line in lines)
    tail = f"\nThe last {len(lines)} log lines:\n{shown}" if lines else "\nIt left no log."
    what = status.failure_kind or status.state
    where = engine.log_location(handle)
    message = status.message or f"The job is {status.state}."
    return error_class(
        f"{what}: job {handle.job_id}, attempt {status.attempt}: {message}{tail}\nThe complete log: {where}"
    )


def _last_log_lines(handle: JobHandle, engine: Engine) -> list[str]:
    """Return up to 40 lines from the end of the job's log."""
    lines: list[str] = []
    cursor = 0
    while (chunk := engine.logs(handle, cursor)).cursor != cursor:
        lines = [*lines, *chunk.lines][-SHOWN_LOG_LINES:]
        cursor = chunk.cursor
    return lines


def track(request: JobRequest, settings: Settings, parent_key: str) -> JobRequest:
    """Return the request with the MLflow run it streams to, under the run of its pipeline run; existing runs are
    reused.

    `parent_key` is `DAG_ID/RUN_ID` for a run of Airflow's, which both runs then link to.
    """
    tags = runs.airflow_tags(settings, parent_key)
    runs.parent_run(settings, project=request.project, key=parent_key, tags=tags)
    config = {"spec": request.spec, "placement": request.placement.model_dump(mode="json")}
    target = runs.job_run(
        settings,
        project=request.project,
        request_job_id=request.job_id,
        kind=request.kind,
        parent_key=parent_key,
        config=config,
        tags={
            **tags,
            runs.ENGINE_TAG: request.placement.engine,
            runs.HOST_TAG: this_host(settings),
            runs.OUTPUT_TAG: request.output_uri,
        },
        name=job_title(request),
    )
    if page := pages.run_page(settings, target.run_id):
        log.info("MLflow run of job %s: %s", request.job_id, page)
    return request.model_copy(update={"tracking": target})


def this_host(settings: Settings) -> str:
    """Return the place whose processes share the folders of jobs: host and state dir."""
    return f"{socket.gethostname()}:{settings.state_dir}"


def close_run(settings: Settings, run_id: str, error: JobError) -> None:
    """End the run of a failed job, which a killed worker could not do itself; an unavailable server is only logged."""
    try:
        runs.finish_run(settings, run_id, "KILLED" if isinstance(error, Preempted | JobCancelled) else "FAILED")
    except Exception as problem:
        log.warning("The run %s could not be closed: %s", run_id, problem)


def _close_parent(settings: Settings, run_id: str) -> None:
    """Close the run that collects jobs started by hand; that of a DAG run ends with the DAG run."""
    from pipelines.tracking import open_runs

    try:
        open_runs.finish_parent(settings, run_id)
    except Exception as problem:
        log.warning("The run above %s could not be closed: %s", run_id, problem)


def run_to_end(
    request: JobRequest,
    settings: Settings,
    on_log: Callable[[str], None] | None = None,
    *,
    on_progress: Callable[[JobStatus], None] | None = None,
    parent_key: str = "",
    started_by: str = "",
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Run a request to its result, blocking until the job ends; for the command line.

    The job's log lines go to `on_log`, or to our own log. With a `parent_key` the job streams to MLflow, see `track`;
    `started_by` is recorded as the person who started it. A KeyboardInterrupt cancels the job, whose checkpoints the
    next run resumes from. Raises the JobError of its kind.
    """
    answer = fetch_answer(request, open_store(settings.store_uri, settings))
    if answer is not None:
        log.info("Found by digest: %s", request.output_uri)
        return answer
    if parent_key:
        request = track(request, settings, parent_key)
    engine = engine or open_engine(request.placement.engine, settings)
    note_starter(open_store(settings.store_uri, settings), request, started_by)
    handle = engine.submit(request)
    try:
        follow(handle, engine, on_log or partial(log.info, "%s"), on_progress=on_progress)
    except KeyboardInterrupt:
        log.warning("Cancelling job %s; run this again to resume it", handle.job_id)
        engine.cancel(handle)
        raise
    try:
        return collect(handle, settings, engine)
    except JobError as error:
        if request.tracking:
            close_run(settings, request.tracking.run_id, error)
        raise
    finally:
        if request.tracking:
            _close_parent(settings, request.tracking.run_id)


def follow(
    handle: JobHandle,
    engine: Engine,
    on_log: Callable[[str], None],
    *,
    on_progress: Callable[[JobStatus], None] | None = None,
    wait: bool = True,
) -> JobStatus:
    """Pass every line of a job's log to `on_log`, from the first attempt on, until the job ends; return its last state.

    Without `wait`, only the lines that exist now.
    """
    cursor, tell = 0, on_progress or _ignore
    while True:
        status = engine.status(handle)
        tell(status)
        while (chunk := engine.logs(handle, cursor)).cursor != cursor:
            for line in chunk.lines:
                on_log(line)
            cursor = chunk.cursor
        if status.state in TERMINAL_STATES or status.state == "unknown" or not wait:
            return status
        time.sleep(POLL_SECONDS)


def _ignore(_news: object) -> None:
    return
