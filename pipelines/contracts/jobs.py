"""Value objects of dispatch: job request, record, handle, status and log."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from alignment.contracts.jobs import FailureKind, Placement
from alignment.contracts.names import RelativeName, check_name
from alignment.contracts.values import Record, Sha256, ValueObject


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
    """The MLflow run that a job logs to."""

    tracking_uri: str
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

    @property
    def job_id(self) -> str:
        """The job's id. It is deterministic, so an engine can refuse a duplicate or reattach to it."""
        return f"{self.project}-{self.kind}-{self.spec_digest[:12]}-g{self.generation}"


class JobRecord(ValueObject):
    """The request and the cost of a finished job. The store keeps it after the host and the MLflow run are gone."""

    request: JobRequest
    """The request without its MLflow run, whose address may contain a password."""
    device: Literal["cpu", "gpu"]
    attempts: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    """Wall time of the job's processes in seconds, over all attempts except those whose host was lost."""

    @property
    def device_hours(self) -> float:
        """Wall time in hours times the number of processes. A process uses one GPU, or its CPU threads."""
        return self.seconds * self.request.placement.num_processes / 3600


class JobHandle(ValueObject):
    """Identity of a submitted job, by which another process can find it."""

    engine: str
    job_id: str


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
