"""How a job says why it stopped. Torch-free; `alignment.jobs.outcome` turns it into failure.json and an exit code."""

from typing import Literal

FailureKind = Literal["bad_input", "bad_data", "diverged", "preempted", "storage_full", "out_of_memory", "crashed"]


class JobStoppedError(Exception):
    """A stop with a known reason, raised anywhere below a job.

    `step` is the last optimiser step that was finished, where there is such a thing.
    """

    def __init__(self, kind: FailureKind, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message
        self.step = step
