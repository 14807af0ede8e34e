"""Execution settings and prices of jobs; names and contents of the files beside a job's output. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from alignment.contracts.names import RelativeName
from alignment.contracts.values import NotNegative, PositiveInt, Record, ValueObject

Device = Literal["cpu", "gpu"]
BlockPolicy = Literal["none", "every_n", "all"]
"""Blocks of a denoiser that gradient checkpointing covers."""


class Placement(Record):
    """Execution settings of a job. Nothing here changes the mathematics."""

    engine: str = "local"
    """Engine that runs the job: `local` on this host, `ray` on a Ray cluster."""
    num_processes: PositiveInt = 1
    """Number of processes; on GPUs one for each. With `min_processes`, the maximum."""
    min_processes: PositiveInt | None = None
    """Engine `ray`: the job also runs with fewer processes, at least this many, and grows again when nodes return."""
    gpus_per_process: Annotated[int, Field(ge=0, le=1)] = 0
    """Engine `ray`: GPUs that the cluster reserves for each process, 0 or 1. The engine `local` uses what the host has.
    """
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Engine `ray`: number of lost workers or nodes after which the attempt fails. Announced preemptions do not count.
    """
    sharding: Literal["none", "fsdp2"] = "none"
    """Training: `none` gives every process a copy of the weights; `fsdp2` a part of the weights, gradients and
    optimiser state, for bases that do not fit the memory of one GPU. It needs the optimiser `adamw` and an offline
    objective."""
    gradient_checkpointing: BlockPolicy | Literal["auto"] = "auto"
    """Training: blocks of the denoiser that do not keep their activations for the backward pass and are computed again
    there: `none`, `every_n` (every n-th, see `checkpointed_every`), `all`, or `auto`: the first of these three that
    fits the memory of the GPU, found by a pass over one micro-batch. On a CPU `auto` is `none`; with shards or an
    online objective it is `all`. Curves do not change."""
    checkpointed_every: Annotated[int, Field(ge=2)] = 2
    """Training, with `gradient_checkpointing` = `every_n` or `auto`: 2 for every second block, 3 for every third."""
    fused_optimiser: bool = False
    """Training: AdamW updates all weights in one kernel. Sums are rounded otherwise, so the curve differs in the last
    digits."""
    compile_blocks: bool = False
    """Training: compile the repeated blocks of the denoiser with torch.compile. The first steps take minutes, and
    results are rounded otherwise. Not with `sharding`."""
    channels_last: bool = False
    """Training: store the weights of convolutions with their channels last, the order in which most of their kernels
    compute. Results are rounded otherwise. Not with `sharding`."""
    threads_per_process: PositiveInt = 1
    """CPU threads of one process."""
    micro_batch: PositiveInt = 8
    """Maximum pairs (training) or images (sampling) that one process holds at once; accumulation covers the rest."""
    auto: bool = False
    """Training: `true` measures for a few seconds which `micro_batch` is fastest within the free memory, instead of the
    number above. After an out-of-memory error training continues from its last checkpoint with half; at one pair with
    more gradient checkpointing, if that is `auto` as well. The global batch stays. It needs `sharding = "none"` and an
    offline objective."""
    deadline_hours: Annotated[float, Field(gt=0)] | None = None
    """Training, with `auto`: hours that all steps may take. If the fastest measured setting needs more, the job fails
    before its first step; a resumed job, or one with fewer processes, warns. Images and checkpoints are not counted."""
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

    @model_validator(mode="after")
    def _check_processes(self) -> Self:
        if self.min_processes is not None and self.min_processes > self.num_processes:
            raise ValueError(
                f"min_processes = {self.min_processes} is above num_processes = {self.num_processes}, the maximum."
                " Lower the first or raise the second."
            )
        for name in ("compile_blocks", "channels_last"):
            if getattr(self, name) and self.sharding != "none":
                raise ValueError(
                    f"{name} = true needs sharding = 'none', not {self.sharding!r}. Remove one of the two."
                )
        if self.deadline_hours is not None and not self.auto:
            raise ValueError(
                "deadline_hours needs auto = true, whose measurement it is compared with. Set auto = true or remove it."
            )
        if self.engine == "local" and (self.min_processes is not None or self.gpus_per_process):
            given = "min_processes" if self.min_processes is not None else "gpus_per_process"
            raise ValueError(f"{given} is for the engine 'ray', and engine = 'local'. Remove it or change the engine.")
        return self


class PlacementTrial(Record):
    """One measurement of the adaptive placement."""

    micro_batch: PositiveInt
    settings: Mapping[str, str] = Field(default_factory=dict)
    """Other settings of the branch, by their names in the placement."""
    pairs_per_second: float
    """Pairs of one process; 0 when the pass ran out of memory."""
    peak_gib: float
    """Largest peak of all processes."""
    fits: bool


class PlacementChoice(Record):
    """placement_choice.json: what the adaptive placement chose. A later attempt of the job uses it again."""

    micro_batch: PositiveInt
    settings: Mapping[str, str] = Field(default_factory=dict)
    """Other settings of the chosen branch, by their names in the placement."""
    available_gib: float
    """Memory that a pass of one process could use."""
    trials: tuple[PlacementTrial, ...]
    steps_down: int = 0
    """Number of times that training ran out of memory and the micro-batch was halved."""


class TrainingPace(Record):
    """pace.json: measured pace and memory of an offline training, by the attempt that finished it."""

    device: str
    """Name of the GPU by its driver, the same for all processes; `cpu` without a GPU."""
    num_processes: PositiveInt
    micro_batch: PositiveInt
    """Most pairs that a process held at once."""
    checkpointed_every: Annotated[int, Field(ge=0)]
    """Gradient checkpointing of every n-th block; 0: of none."""
    steps: PositiveInt
    """Number of measured steps."""
    pairs_per_second: Annotated[float, Field(gt=0)]
    """Pairs of one process, by the median step."""
    peak_gib: NotNegative
    """Most memory that a process reserved on its GPU up to the last step, sample grids included; 0 without a GPU."""
    finished_at: AwareDatetime


class DevicePrices(Record):
    """Prices of an hour of a device, from which the cost of jobs is computed."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    """Currency of the prices: three capital letters, e.g. EUR."""
    gpu_hour: NotNegative | None = None
    """Price of one GPU for one hour; none: jobs on GPUs have no cost."""
    cpu_hour: NotNegative | None = None
    """Price of one process on a CPU for one hour; none: jobs on CPUs have no cost."""

    def hourly(self, device: Device) -> float | None:
        """Return the price of one hour of a device."""
        return self.gpu_hour if device == "gpu" else self.cpu_hour


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


REWARD_GAIN = "reward_gain"
"""Metric of online training: mean reward of fresh images minus that of the base's, on the same prompts and noise."""
CHOSEN_CHANGE = "chosen_error_minus_reference"
"""Metric of training: rise of the chosen images' error over that of the base."""
CHOSEN_WORSE_STEPS = "chosen_worse_steps"
"""Metric of training: number of steps in a row, up to this one, with a rise."""
CHOSEN_ALARM_STEPS = 20
"""Number of such steps from which a person is warned."""
HEALTH = "health/"
"""Prefix of metrics of the host and the device, which a rerun does not reproduce."""
NORM_RATIO = "prediction_norm_ratio/"
"""Prefix of metrics of training's last step: mean norm of the policy's predictions over the base's, before the number
of the timestep bin."""
NORM_BINS = 4
"""Number of timestep bins, from the least noise to the most."""


def norm_ratios(metrics: Mapping[str, float]) -> tuple[float, ...]:
    """Return the ratios of a run's final metrics, one per bin; empty for runs that did not measure them."""
    names = [f"{NORM_RATIO}{number}" for number in range(NORM_BINS)]
    return tuple(metrics[name] for name in names) if all(name in metrics for name in names) else ()


SPEC_FILE = "spec.json"
"""The job's spec, kept beside its result."""
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
METRICS_FILE = "metrics.jsonl"
SAMPLES_INDEX_FILE = "samples/index.jsonl"
CHECKPOINTS_DIR = "checkpoints"
PROGRESS_FILE = "progress.json"
PLACEMENT_CHOICE_FILE = "placement_choice.json"
PACE_FILE = "pace.json"
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
