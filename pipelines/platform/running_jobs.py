"""List and stop the jobs of the local engine on this host, for the demo."""

from pipelines.contracts.jobs import JobHandle, JobStatus
from pipelines.settings import Settings


def running(settings: Settings) -> dict[str, JobStatus]:
    """Return the status of every job that is pending or running, by job id."""
    from pipelines.dispatch import jobs

    folder = settings.state_dir / "jobs"
    ids = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {job_id: jobs.poll(_handle(job_id), settings) for job_id in ids}
    return {job_id: status for job_id, status in found.items() if status.state in ("pending", "running")}


def preempt_all(settings: Settings) -> list[str]:
    """Stop every running job; each writes a checkpoint first, so that the next submit continues from there."""
    from pipelines.dispatch.engines.local import LocalEngine

    ids = list(running(settings))
    for job_id in ids:
        LocalEngine(settings).preempt(_handle(job_id))
    return ids


def _handle(job_id: str) -> JobHandle:
    return JobHandle(engine="local", job_id=job_id)
