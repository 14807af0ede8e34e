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
        raise ValueError(f"Alias {name!r} is no file name. Allowed: one name without '/'.")
    return name


class JobInput(Record):
    """A folder (or single file) the job needs, found locally as `<inputs dir>/<content_digest>`."""

    content_digest: Sha256
    uri: str
    kind: Literal["folder", "file"] = "folder"
    """A file arrives as `<inputs dir>/<sha256>`, without a folder around it."""
    manifest: bool = True
    """False for a plain folder of the user's (a base model, a judge) without manifest.json; it is hashed instead."""
    alias: Annotated[str, AfterValidator(_empty_or_file_name)] = ""
    """File name under the inputs dir if it is not content_digest (images, which a job finds by their spec's digest)."""
    subfolder: Annotated[str, AfterValidator(_empty_or_relative)] = ""
    """Only this sub-folder of a published folder; content_digest is then the sub-folder's own."""


class SideOutput(Record):
    """A sub-folder of the job's output published under its own URI (images that later evaluations find again)."""

    path: RelativeName
    uri: str


class TrackingTarget(Record):
    """The MLflow run a job streams to."""

    tracking_uri: str
    run_id: str


JobKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Name of a kind of job: its file in alignment/jobs, and its entry in pipelines/dispatch/job_kinds.py."""


class JobRequest(ValueObject):
    """A spec with its placement: everything an engine needs to run one job."""

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
    """Raised by a person who wants the same spec run again; part of the job's identity and of its output URI."""

    @property
    def job_id(self) -> str:
        """Deterministic, so that an engine can refuse or reattach a duplicate."""
        return f"{self.project}-{self.kind}-{self.spec_digest[:12]}-g{self.generation}"


class JobRecord(ValueObject):
    """What a finished job was asked, and what it took; in the store, so that it outlives host and MLflow run."""

    request: JobRequest
    """Without the MLflow run, whose address may hold a password."""
    device: Literal["cpu", "gpu"]
    attempts: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    """Wall time of the job's processes over its attempts; that of an attempt killed with its host is lost."""

    @property
    def device_hours(self) -> float:
        """Wall time times processes: a process has one GPU, or on a CPU its threads."""
        return self.seconds * self.request.placement.num_processes / 3600


class JobHandle(ValueObject):
    """A submitted job: enough to find it again from another process."""

    engine: str
    job_id: str


class JobStatus(ValueObject):
    """Where a job stands."""

    state: Literal["unknown", "pending", "running", "succeeded", "failed", "preempted", "cancelled", "lost"]
    attempt: int = 0
    exit_code: int | None = None
    failure_kind: Literal["", FailureKind] = ""
    message: str = ""
    progress_done: int = 0
    progress_total: int = 0
    progress_unit: str = ""


class LogChunk(ValueObject):
    """Log lines from a cursor on, and the cursor to ask from next time."""

    lines: tuple[str, ...]
    cursor: int
