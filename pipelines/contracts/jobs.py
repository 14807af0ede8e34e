"""Value objects of dispatch: job request, record, handle, status and log."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field

from alignment.contracts.jobs import Device, DevicePrices, FailureKind, Placement, TrainingPace
from alignment.contracts.names import RelativeName, check_name
from alignment.contracts.values import NotNegative, Record, Sha256, ValueObject


def _empty_or_relative(name: str) -> str:
    return check_name(name, "its folder") if name else name


def _empty_or_file_name(name: str) -> str:
    if "/" in _empty_or_relative(name):
        raise ValueError(f"Alias {name!r} is not a file name. Allowed: one name without '/'.")
    return name


class JobInput(Record):
    """A folder or single file that a job needs. On the job's machine it is `<inputs dir>/<content_digest>`."""

    content_digest: Sha256
    uri: str
    kind: Literal["folder", "file"] = "folder"
    """`file`: a single file, stored as `<inputs dir>/<sha256>`."""
    manifest: bool = True
    """False for a user's folder without manifest.json, such as a base model or a judge. Its files are hashed."""
    alias: Annotated[str, AfterValidator(_empty_or_file_name)] = ""
    """File name in the inputs dir, if it is not content_digest. Images are found by the digest of their spec."""
    subfolder: Annotated[str, AfterValidator(_empty_or_relative)] = ""
    """Sub-folder of a published folder to fetch; content_digest is then the digest of the sub-folder."""


class SideOutput(Record):
    """A sub-folder of the job's output that is published under a separate URI: images that later evaluations reuse."""

    path: RelativeName
    uri: str


class TrackingTarget(Record):
    """The MLflow run that a job logs to. The server's address may contain a password: a job gets it by environment."""

    model_config = ConfigDict(extra="ignore")  # requests of earlier versions, of jobs that still run, hold the address

    run_id: str


JobKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Name of a kind of job: the name of its file in alignment/jobs and of its entry in pipelines/dispatch/job_kinds.py."""


class JobRequest(ValueObject):
    """A spec and its placement: everything that an engine needs to run one job."""

    project: str
    kind: JobKind
    spec: dict[str, Any]
    spec_digest: Sha256
    inputs: tuple[JobInput, ...]
    output_uri: str
    side_outputs: tuple[SideOutput, ...] = ()
    placement: Placement
    tracking: TrackingTarget | None = None
    generation: Annotated[int, Field(ge=0)] = 0
    """Number of the run of this spec. Increase it to run the spec again; it is part of the job id and output URI."""
    prices: DevicePrices | None = Field(default=None, exclude_if=lambda prices: prices is None)
    """Prices of the project at the time of the request; the JSON omits them if there are none."""

    @property
    def job_id(self) -> str:
        """The job's id. It is deterministic, so an engine can refuse a duplicate or reattach to it."""
        return f"{self.project}-{self.kind}-{self.spec_digest[:12]}-g{self.generation}"


class JobRecord(ValueObject):
    """The request and the cost of a finished job. The store keeps it after the host and the MLflow run are gone."""

    request: JobRequest
    """The request without its MLflow run."""
    device: Device
    attempts: Annotated[int, Field(ge=0)]
    seconds: NotNegative
    """Wall time of the job's processes in seconds, over all attempts. A killed attempt counts up to its last 10 s."""
    pace: TrainingPace | None = Field(default=None, exclude_if=lambda pace: pace is None)
    """Measured pace of a training; the JSON omits it if there is none."""

    @property
    def device_hours(self) -> float:
        """Wall time in hours times the number of processes. A process uses one GPU, or its CPU threads."""
        return self.seconds * self.request.placement.num_processes / 3600

    @property
    def cost(self) -> float | None:
        """Device-hours times their price, in `request.prices.currency`; None without a price."""
        price = self.request.prices.hourly(self.device) if self.request.prices else None
        return None if price is None else self.device_hours * price


class ComputeTotal(Record):
    """Compute time and cost of several jobs."""

    gpu_hours: NotNegative = 0.0
    cpu_hours: NotNegative = 0.0
    """Hours of processes on CPUs."""
    cost: dict[str, NotNegative] = Field(default_factory=dict)
    """Cost by currency, of the jobs whose device had a price."""

    def plus(self, record: JobRecord) -> "ComputeTotal":
        """Return the total with one more job, or one more attempt of a job."""
        gpu = record.device == "gpu"
        cost, prices = dict(self.cost), record.request.prices
        if record.cost is not None and prices is not None:
            cost[prices.currency] = cost.get(prices.currency, 0.0) + record.cost
        return ComputeTotal(
            gpu_hours=self.gpu_hours + record.device_hours * gpu,
            cpu_hours=self.cpu_hours + record.device_hours * (not gpu),
            cost=cost,
        )


class ComputeEntry(ValueObject):
    """One attempt of a job in the account of its project, with the total of the project so far."""

    job_id: str
    attempt: Annotated[int, Field(ge=0)]
    job_seconds: NotNegative
    """Wall time of the job over all its attempts so far."""
    total: ComputeTotal


class JobHandle(ValueObject):
    """Identity of a submitted job, by which another process can find it."""

    engine: str
    job_id: str


class SubmittedJob(Record):
    """A job that an engine knows."""

    handle: JobHandle
    request: JobRequest
    """The request of its last attempt."""
    started_at: AwareDatetime
    """Time at which its last attempt was submitted."""


class JobStatus(ValueObject):
    """State and progress of a job."""

    state: Literal["unknown", "pending", "running", "succeeded", "failed", "preempted", "cancelled", "lost"]
    attempt: int = 0
    exit_code: int | None = None
    failure_kind: Literal["", FailureKind] = ""
    message: str = ""
    progress_done: int = 0
    progress_total: int = 0
    progress_unit: str = ""


class LogChunk(ValueObject):
    """Log lines after a cursor, and the cursor for the next read."""

    lines: tuple[str, ...]
    cursor: int
