"""The files a job keeps beside its output, their names and what stands in them. Torch-free."""

from typing import Literal

from alignment.contracts.names import RelativeName
from alignment.contracts.values import PositiveInt, Record, ValueObject


class Placement(Record):
    """How a job is run. Nothing here changes the mathematics."""

    engine: str = "local"
    num_processes: PositiveInt = 1
    threads_per_process: PositiveInt = 1
    micro_batch: PositiveInt = 8
    """Most pairs (training) or images (sampling) one process holds at once; accumulation makes up the rest."""
    checkpoint_every_steps: PositiveInt = 100
    keep_checkpoints: PositiveInt = 2
    sample_every_steps: PositiveInt = 100
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample grid, drawn at step 0, every `sample_every_steps` and at the end."""
    log_every_steps: PositiveInt = 1
    timeout_seconds: PositiveInt = 86_400


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


SPEC_FILE = "spec.json"
"""What a job was asked, beside what it answers."""
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
METRICS_FILE = "metrics.jsonl"
SAMPLES_INDEX_FILE = "samples/index.jsonl"
CHECKPOINTS_DIR = "checkpoints"
PROGRESS_FILE = "progress.json"
LABEL_REPORT_FILE = "label_report.json"
SCORE_PIECES_DIR = "score_pieces"
"""Scores that an evaluation keeps until it is whole; not published."""


class JobFailure(ValueObject):
    """Why a job stopped: written as failure.json beside its output by the job itself."""

    kind: FailureKind
    message: str
    step: int | None = None


class MetricsLine(Record):
    """One line of metrics.jsonl."""

    step: int
    unix_seconds: float
    metrics: dict[str, float]


class SampleLine(Record):
    """One line of samples/index.jsonl: an image of the grid, under the job's output folder."""

    step: int
    key: str
    """Letters, digits, _ - and / only, e.g. `samples/00`."""
    path: RelativeName
    prompt: str


class Progress(Record):
    """progress.json: how far a job is, rewritten atomically as it goes."""

    done: int
    total: int
    unit: str
    """steps, shards, images..."""
    message: str = ""
