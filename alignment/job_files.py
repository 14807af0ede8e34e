"""The files a job keeps beside its output, their names and what stands in them. Torch-free."""

from alignment.contracts import Record, ValueObject
from alignment.failures import FailureKind
from alignment.files.paths import RelativeName

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
