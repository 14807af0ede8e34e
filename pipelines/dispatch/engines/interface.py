"""What every engine does with a job."""

from typing import Any, Protocol

from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus, LogChunk

TERMINAL_STATES = frozenset({"succeeded", "failed", "preempted", "cancelled", "lost"})


class Engine(Protocol):
    """Runs jobs somewhere that outlives the caller. Any process of the control plane may call any method."""

    def submit(self, request: JobRequest) -> JobHandle:
        """Make sure the job runs or has succeeded; idempotent on `request.job_id`.

        Running: reattach. Succeeded, with its answer in the store: nothing. Failed, preempted, cancelled or lost: a new
        attempt in the same work folder, where it finds its checkpoints; what the last attempt left running is killed.
        """
        ...

    def status(self, handle: JobHandle) -> JobStatus:
        """Where the job stands; `unknown` for a job never submitted here."""
        ...

    def logs(self, handle: JobHandle, cursor: int) -> LogChunk:
        """Log lines of all attempts in order, from a cursor (0: the beginning) on; none when there is nothing new."""
        ...

    def log_location(self, handle: JobHandle) -> str:
        """Where a person finds the whole log."""
        ...

    def cancel(self, handle: JobHandle) -> None:
        """Stop every process of the job, with a grace in which it may write a checkpoint; returns when they are gone.

        Nothing happens to a job that is not running.
        """
        ...

    def result(self, handle: JobHandle) -> dict[str, Any]:
        """The value object of a job that succeeded, as JSON. LookupError when there is none."""
        ...
