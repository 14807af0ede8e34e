"""Claims: the try of a task that waits for a job, in the store under claims/PROJECT/JOB_ID.json.

A later try takes the claim over. Airflow tells the trigger of a cleared task to stop its job while the next try may
already have reattached to it (no order is guaranteed), so only the holder of the claim may cancel. Claims also lead to
jobs that nobody waits for any more: a task that a person killed while no triggerer ran.
"""

import logging
from collections.abc import Callable

from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobHandle
from pipelines.dispatch import jobs
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store

log = logging.getLogger(__name__)


class JobClaim(Record):
    """A try of a task, and the job it waits for."""

    project: str
    engine: str
    job_id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_id: str
    """Id of the task instance. Airflow gives each try another one."""
    tracking_run_id: str = ""
    """The job's MLflow run."""

    @property
    def handle(self) -> JobHandle:
        """Identity of the job on its engine."""
        return JobHandle(engine=self.engine, job_id=self.job_id)


class _Cancellation(Record):
    """The try that was killed, and the attempt of the job that was cancelled for it."""

    try_id: str
    attempt: int


def take(claim: JobClaim, settings: Settings) -> None:
    """Record the claim in place of an earlier one, before the job is submitted."""
    _store(settings).write_bytes(_uri(claim, settings), claim.model_dump_json(indent=1).encode())


def release(claim: JobClaim, settings: Settings) -> None:
    """Delete the claim, unless a later try has taken it over."""
    if _holds(claim, settings):
        _store(settings).delete(_uri(claim, settings))


def cancel_claimed(claim: JobClaim, settings: Settings) -> bool:
    """Stop the job of a killed try and close its MLflow run; False when a later try has taken the job over."""
    if not _holds(claim, settings):
        log.info("Job %s belongs to a later try; it is left alone.", claim.job_id)
        return False
    status = jobs.poll(claim.handle, settings)
    cancellation = _Cancellation(try_id=claim.try_id, attempt=status.attempt)
    _store(settings).write_bytes(_cancellation_uri(claim, settings), cancellation.model_dump_json().encode())
    jobs.cancel(claim.handle, settings)
    if claim.tracking_run_id and jobs.poll(claim.handle, settings).state != "succeeded":
        jobs.close_run(settings, claim.tracking_run_id, jobs.JobCancelled("The task was stopped."))
    release(claim, settings)
    return True


def cancelled_for_another(claim: JobClaim, attempt: int, settings: Settings) -> bool:
    """Return True when this attempt of the job was cancelled for a try that was killed before `claim`'s began."""
    uri = _cancellation_uri(claim, settings)
    store = _store(settings)
    if not store.exists(uri):
        return False
    found = _Cancellation.model_validate_json(store.read_bytes(uri))
    return found.attempt == attempt and found.try_id != claim.try_id


def cancel_orphans(project: str, settings: Settings, waits: Callable[[JobClaim], bool]) -> list[str]:
    """Stop the jobs of claims for which `waits` is False; return the ids of those that were still running."""
    store, orphans = _store(settings), []
    for uri in store.list_uris(store.uri("claims", project)):
        claim = JobClaim.model_validate_json(store.read_bytes(uri))
        if waits(claim):
            continue
        if jobs.poll(claim.handle, settings).state in ("pending", "running"):
            log.warning("Job %s is cancelled: task %s of %s does not wait for it.", claim.job_id, claim.task_id, uri)
            cancel_claimed(claim, settings)
            orphans.append(claim.job_id)
        release(claim, settings)
    return orphans


def _holds(claim: JobClaim, settings: Settings) -> bool:
    store, uri = _store(settings), _uri(claim, settings)
    return store.exists(uri) and JobClaim.model_validate_json(store.read_bytes(uri)).try_id == claim.try_id


def _uri(claim: JobClaim, settings: Settings) -> str:
    return _store(settings).uri("claims", claim.project, f"{claim.job_id}.json")


def _cancellation_uri(claim: JobClaim, settings: Settings) -> str:
    return _store(settings).uri("cancelled", claim.project, f"{claim.job_id}.json")


def _store(settings: Settings) -> Store:
    return open_store(settings.store_uri, settings)
