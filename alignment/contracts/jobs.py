"""Names and contents of the files that a job keeps beside its output. Torch-free."""

from typing import Literal

from alignment.contracts.names import RelativeName
from alignment.contracts.values import PositiveInt, Record, ValueObject


class Placement(Record):
    """Execution settings of a job. Nothing here changes the mathematics."""

    engine: str = "local"
    """Engine that runs the job."""
    num_processes: PositiveInt = 1
    """Number of processes; on GPUs one for each."""
    threads_per_process: PositiveInt = 1
    """CPU threads of one process."""
    micro_batch: PositiveInt = 8
    """Maximum pairs (training) or images (sampling) that one process holds at once; accumulation covers the rest."""
    checkpoint_every_steps: PositiveInt = 100
    """Optimiser steps between two checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Number of checkpoints that are kept."""
    sample_every_steps: PositiveInt = 100
    """Optimiser steps between two sample grids."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample grid. Images are generated at step 0, every `sample_every_steps` and at the end."""
    log_every_steps: PositiveInt = 1
    """Optimiser steps between two lines of metrics."""
    timeout_seconds: PositiveInt = 86_400
    """The job is stopped after this many seconds."""


FailureKind = Literal["bad_input", "bad_data", "diverged", "preempted", "storage_full", "out_of_memory", "crashed"]


class JobStoppedError(Exception):
    """A job stopped for a known reason. Any code that a job calls may raise it.

    `step` is the last optimiser step that finished, for jobs that have steps.
    """

    def __init__(self, kind: FailureKind, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message
        self.step = step


SPEC_FILE = "spec.json"
"""The job's spec, kept beside its result."""
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
METRICS_FILE = "metrics.jsonl"
SAMPLES_INDEX_FILE = "samples/index.jsonl"
CHECKPOINTS_DIR = "checkpoints"
PROGRESS_FILE = "progress.json"
LABEL_REPORT_FILE = "label_report.json"
SCORES_FILE = "scores.parquet"
"""Scores of an evaluation: a row for each model, prompt, seed and scorer."""
CALIBRATION_SCORES_FILE = "calibration_scores.parquet"
CONTACT_SHEET_FILE = "contact_sheet.png"
CONTACT_SHEET_PROMPTS_FILE = "contact_sheet.json"
"""The prompts of its rows as text, from the top: the picture cuts long ones, and has no letters for some scripts."""
EXTREMES_FILE = "extremes.json"
SAMPLES_DIR = "samples"
WEIGHTS_DIR = "weights"
JUDGE_DIR = "judge"
SCORE_PIECES_DIR = "score_pieces"
"""Partial scores that an evaluation keeps until it finishes; not published."""


class JobFailure(ValueObject):
    """Reason for a job's stop. The job writes it as failure.json beside its output."""

    kind: FailureKind
    message: str
    step: int | None = None


class MetricsLine(Record):
    """One line of metrics.jsonl."""

    step: int
    unix_seconds: float
    metrics: dict[str, float]


class SampleLine(Record):
    """One line of samples/index.jsonl: an image of the grid in the job's output folder."""

    step: int
    key: str
    """Letters, digits, _ - and / only, e.g. `samples/00`."""
    path: RelativeName
    prompt: str


class Progress(Record):
    """progress.json: progress of a running job, rewritten atomically."""

    done: int
    total: int
    unit: str
    """Counted things: steps, shards, images..."""
    message: str = ""
