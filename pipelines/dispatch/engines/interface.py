"""The interface of an engine, which runs jobs."""

from typing import Any, Protocol

from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus, LogChunk, SubmittedJob

TERMINAL_STATES = frozenset({"succeeded", "failed", "preempted", "cancelled", "lost"})


class Engine(Protocol):
    """Runs jobs in processes that outlive the caller. Any process of the control plane may call any method."""

    def submit(self, request: JobRequest) -> JobHandle:
        """Ensure that the job runs or has succeeded; idempotent on `request.job_id`.

        Running: reattach. Succeeded, with its result in the store: nothing. Failed, preempted, cancelled or lost: a new
        attempt in the same work folder, where it finds its checkpoints; processes left by the last attempt are killed.
        """
        ...

    def jobs(self) -> list[SubmittedJob]:
        """List the jobs that were ever submitted here, in the order of their ids. Works while no job can run."""
        ...

    def status(self, handle: JobHandle) -> JobStatus:
        """Return the state of the job; `unknown` for a job never submitted here."""
        ...

    def logs(self, handle: JobHandle, cursor: int) -> LogChunk:
        """Return log lines of all attempts in order, from a cursor (0: the beginning); none when nothing is new."""
        ...

    def log_location(self, handle: JobHandle) -> str:
        """Return the location of the complete log, for a person."""
        ...

    def cancel(self, handle: JobHandle) -> None:
        """Stop every process of the job after a grace period in which it may write a checkpoint; return when they are
        gone.

        Does nothing to a job that is not running.
        """
        ...

    def result(self, handle: JobHandle) -> dict[str, Any]:
        """Return the value object of a job that succeeded, as JSON. LookupError when there is none."""
        ...
