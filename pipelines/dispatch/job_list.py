"""List the jobs of every engine, and find one by the beginning of its id."""

import logging
import shutil
from collections.abc import Collection
from datetime import UTC, datetime
from difflib import get_close_matches

from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobHandle, JobRecord, JobStatus, SubmittedJob
from pipelines.dispatch.engines.catalogue import ENGINES, open_engine
from pipelines.dispatch.job_folder import JobFolder
from pipelines.dispatch.jobs import poll
from pipelines.records.jobs import read_record, record_uris
from pipelines.settings import Settings
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)

MOST_NAMED_JOBS = 5


class JobSummary(Record):
    """One job as a list shows it. Texts are for people; the numbers that they come from are beside them."""

    job_id: str
    project: str
    kind: str
    engine: str
    state: str
    attempt: int
    progress: str = ""
    """Steps or other units that are done, such as `120 of 200 steps`."""
    progress_done: int = 0
    progress_total: int = 0
    progress_unit: str = ""
    started_at: datetime | None = None
    """Start of the last attempt; None for a job that ran on another host."""
    age: str = ""
    """Time since then."""
    compute: str = ""
    """Device-hours and cost of a finished job."""
    device_hours: float | None = None
    cost: float | None = None
    currency: str | None = None
    message: str = ""
    """Reason of the state, if there is one."""


def list_jobs(settings: Settings, project: str = "", *, active: bool = False) -> list[JobSummary]:
    """List the jobs of a project, or of all, the newest first; with `active`, only pending and running ones.

    They are the jobs of this host, of the Ray cluster, and those that finished on other hosts with this store.
    """
    finished = {} if active else _finished(settings, project)
    submitted = [job for job in _submitted(settings) if project in ("", job.request.project)]
    found = [_summary(job, finished.pop(job.handle.job_id, None), settings) for job in submitted]
    found.sort(key=lambda own: own.started_at or datetime.min.replace(tzinfo=UTC), reverse=True)
    found += [_elsewhere(record) for _, record in sorted(finished.items())]
    return [own for own in found if not active or own.state in ("pending", "running")]


def delete_outputs(uris: Collection[str], settings: Settings) -> list[str]:
    """Delete what jobs of this host wrote of outputs that leave the store; return the jobs' ids.

    Their requests, logs and states stay; a new submit computes the output again. ValueError, before anything is
    deleted, when one of the jobs is pending or running.
    """
    jobs = [job for job in open_engine("local", settings).jobs() if job.request.output_uri in uris]
    active = [job.handle.job_id for job in jobs if poll(job.handle, settings).state in ("pending", "running")]
    if active:
        raise ValueError(f"Jobs that write these outputs still run: {', '.join(active)}. Wait, or cancel them.")
    folders = [JobFolder(settings.state_dir / "jobs" / job.handle.job_id) for job in jobs]
    left = [folder for folder in folders if folder.out_dir.is_dir()]
    for folder in left:
        with folder.locked():
            shutil.rmtree(folder.out_dir)
    return [folder.path.name for folder in left]


def find_job(name: str, settings: Settings) -> JobHandle:
    """Return the handle of the job whose id is `name` or begins with it.

    ValueError when no job of an engine does, or several do.
    """
    known = {job.handle.job_id: job.handle for job in _submitted(settings)}
    if name in known:
        return known[name]
    fitting = [job_id for job_id in sorted(known) if name and job_id.startswith(name)]
    if len(fitting) == 1:
        return known[fitting[0]]
    if fitting:
        more = f" and {len(fitting) - MOST_NAMED_JOBS} more" if len(fitting) > MOST_NAMED_JOBS else ""
        named = ", ".join(fitting[:MOST_NAMED_JOBS])
        raise ValueError(f"{len(fitting)} jobs begin with {name!r}: {named}{more}. Give more letters of the id.")
    nearest = get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"No job of this host or of the Ray cluster begins with {name!r}.{hint} `plumbline jobs list` shows their ids."
    )


def _submitted(settings: Settings) -> list[SubmittedJob]:
    names = [params.model_fields["name"].default for params in ENGINES]
    return [job for name in names for job in open_engine(name, settings).jobs()]


def _finished(settings: Settings, project: str) -> dict[str, JobRecord]:
    """Read the records of finished jobs, by job id."""
    store = open_store(settings.store_uri, settings)
    records = [read_record(store, uri) for uri in record_uris(store, project)]
    return {record.request.job_id: record for record in records}


def _summary(job: SubmittedJob, record: JobRecord | None, settings: Settings) -> JobSummary:
    status = _status(job.handle, settings)
    total, unit = status.progress_total, status.progress_unit
    plain = JobSummary(
        job_id=job.handle.job_id,
        project=job.request.project,
        kind=job.request.kind,
        engine=job.handle.engine,
        state=status.state,
        attempt=status.attempt,
        progress=f"{status.progress_done} of {total} {unit}".rstrip() if total else "",
        progress_done=status.progress_done,
        progress_total=total,
        progress_unit=unit,
        started_at=job.started_at,
        age=_duration((datetime.now(UTC) - job.started_at).total_seconds()),
        message=status.message,
    )
    return plain.model_copy(update=_cost(record)) if record else plain


def _status(handle: JobHandle, settings: Settings) -> JobStatus:
    """Return the state of a job; `unknown`, with the reason, when its engine does not respond."""
    try:
        return open_engine(handle.engine, settings).status(handle)
    except (ValueError, RuntimeError, OSError) as error:
        log.debug("The state of %s is not known", handle.job_id, exc_info=True)
        return JobStatus(state="unknown", message=str(error))


def _elsewhere(record: JobRecord) -> JobSummary:
    """Return a job that this host does not know otherwise. Only jobs that succeeded have a record."""
    request = record.request
    plain = JobSummary(
        job_id=request.job_id,
        project=request.project,
        kind=request.kind,
        engine=request.placement.engine,
        state="succeeded",
        attempt=record.attempts,
    )
    return plain.model_copy(update=_cost(record))


def _cost(record: JobRecord) -> dict[str, object]:
    hours, cost, prices = record.device_hours, record.cost, record.request.prices
    currency = prices.currency if prices and cost is not None else None
    price = f", {cost:.2f} {currency}" if currency else ""
    compute = f"{hours:.3g} {record.device.upper()}-hours{price}"
    return {"compute": compute, "device_hours": hours, "cost": cost, "currency": currency}


def _duration(seconds: float) -> str:
    """Return a length of time in its largest unit: `40 s`, `12 min`, `5 h` or `3 days`."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
