"""Value objects only the control plane sees. Frozen, plain JSON; they fit in an XCom."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from alignment.catalogues.rewards import Pal, Reward
from alignment.contracts.calibration import Calibration
from alignment.contracts.jobs import FailureKind, Placement
from alignment.contracts.reward_models import RewardAccuracy
from alignment.contracts.values import Sha256, ValueObject
from alignment.files.paths import RelativeName, check_name

# --- store ----------------------------------------------------------------------------------------------------------


class FileEntry(BaseModel):
    """One file of a published folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    num_bytes: int


class Manifest(ValueObject):
    """manifest.json, written last: present means the folder is finished."""

    content_digest: Sha256
    """folder_digest over `files`; manifest.json itself is not among them."""
    files: dict[str, FileEntry]
    """Relative path, forward slashes, to what it holds."""
    value: dict[str, Any]
    """The stage's value object as JSON, so that a retry can give its first answer."""


# --- intake ---------------------------------------------------------------------------------------------------------


class SourceShard(ValueObject):
    """One file of a preference source, found but not yet read."""

    source: str
    uri: str
    num_bytes: int
    fingerprint: str
    """What tells one version of the file from another: a checksum or ETag, else size and modification time."""


class RawBatch(ValueObject):
    """Pairs of one shard as they came, in our columns, with facts. The folder holds pairs.parquet."""

    uri: str
    content_digest: Sha256
    source: str
    source_file: str
    num_rows: int


class RuleResult(BaseModel):
    """What one rule saw in a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    severity: Literal["critical", "warning", "info"]
    checked: int
    failed: int
    example_rows: tuple[int, ...] = ()
    """Up to five source rows that broke the rule; never their contents."""


class ValidationReport(ValueObject):
    """Every rule's result, and where the accepted and the quarantined rows are.

    The folder holds accepted.parquet, quarantine.parquet (source_file, source_row, pair_id, reasons and the row) and
    data_docs/ (without prompts).
    """

    uri: str
    content_digest: Sha256
    batch_digest: Sha256
    source: str
    passed: bool
    """False when a table-level critical rule failed or too much was quarantined: then nothing downstream moves."""
    num_rows: int
    num_accepted: int
    num_quarantined: int
    rules: tuple[RuleResult, ...]
    failure: str = ""
    """One sentence when `passed` is false."""


# --- dispatch -------------------------------------------------------------------------------------------------------


def _empty_or_relative(name: str) -> str:
    return check_name(name, "its folder") if name else name


def _empty_or_file_name(name: str) -> str:
    if "/" in _empty_or_relative(name):
        raise ValueError(f"Alias {name!r} is no file name. Allowed: one name without '/'.")
    return name


class JobInput(BaseModel):
    """A folder (or single file) the job needs, found locally as `<inputs dir>/<content_digest>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class SideOutput(BaseModel):
    """A sub-folder of the job's output published under its own URI (images that later evaluations find again)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: RelativeName
    uri: str


class TrackingTarget(BaseModel):
    """The MLflow run a job streams to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_uri: str
    run_id: str


JobKind = Literal[
    "draw_pairs", "label", "caption", "encode", "train", "soup", "train_reward", "evaluate", "coverage", "calibrate"
]
"""A job of alignment/jobs, by the name of its file."""


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


# --- judges of our own ----------------------------------------------------------------------------------------------


class RewardReport(ValueObject):
    """What training a reward model measured on held-out comparisons, beside a single taste for everybody."""

    head: Literal["pal_a", "pal_b", "bradley_terry"]
    num_pairs: int
    num_users: int
    best_step: int
    mixture: tuple[float, ...]
    """Prototype weights that the judge scores with."""
    accuracies: tuple[RewardAccuracy, ...]
    """Seen users, then unseen users by number of labels; `baseline_accuracy` is that of the single taste."""


class RegisteredJudge(ValueObject):
    """A reward model that this project has trained, to be named as `reward://NAME`."""

    project: str
    name: str
    number: Annotated[int, Field(ge=0)] = 0
    """Counts the judges of one name; the newest is meant by the name. 0 before it is published."""
    uri: str
    """The RewardTrainResult's folder in the store; the scorer is its judge/."""
    judge_digest: Sha256
    spec_digest: Sha256
    snapshot_digest: Sha256
    scorer: Reward = Pal()
    trained_on: tuple[str, ...]
    """Names of the pair sources whose labels it learnt from: it may not judge what learnt from one of them."""
    report: RewardReport
    calibration: Calibration | None = None
    """Agreement with held-out people, where it was measured before registration; the gate measures its own."""


# --- release --------------------------------------------------------------------------------------------------------


class CandidateVersion(ValueObject):
    """A registered model version."""

    model: str
    version: int
    kind: Literal["lora", "full"]
    weights_digest: Sha256
    weights_uri: str
    """The TrainResult's folder in the store."""
    spec_digest: Sha256
    base_digest: Sha256
    snapshot_digest: Sha256
    snapshot_uri: str = ""
    """Where the snapshot it was trained on lies; its calibration split checks the judges."""
    trained_on: tuple[str, ...]
    """Names of the pair sources, and of the judges, whose verdicts the weights learnt from or were chosen by."""
    run_id: str


class GateCheck(BaseModel):
    """One line of a decision: what was measured, what was required."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    measured: float | None
    required: str
    """Readable bound, e.g. `> 0.5`."""
    passed: bool
    decisive: bool = True
    """False for a line that informs but does not vote."""
    family: Literal["", "evidence", "votes", "guards", "slices", "detectors", "power"] = ""
    """What kind of question it answers; checks of one family stand together."""
    note: Literal["", "undecided", "unmeasured", "warning"] = ""
    """What passed or failed does not say: undecided asks for more prompts, unmeasured had nothing to go by, a warning
    failed without consequence."""
    explanation: str


class GateDecision(ValueObject):
    """The verdict on a candidate, with every check that led to it."""

    schema_version: int = 2
    verdict: Literal["promote", "hold", "inconclusive", "invalid"]
    mode: Literal["off", "dry_run", "enforce"]
    checks: tuple[GateCheck, ...]
    reasons: tuple[str, ...]
    """Why it was not `promote`; empty when it was."""
    candidate: CandidateVersion
    champion_version: int | None
    """None when the incumbent is the base model itself."""
    champion_weights_digest: Sha256
    report_digest: Sha256
    evaluation_uri: str
    """The EvalReport's folder, with the score table that the decision can be recomputed from."""
    report_uri: str
    """What a person reads."""
    scores_digest: Sha256
    policy_digest: Sha256


class Approval(ValueObject):
    """What a person answered when asked whether a candidate may become champion."""

    decision_digest: Sha256
    answer: Literal["approve", "reject", "timeout"]
    """timeout: nobody answered in time."""
    by: str = ""
    """User name; empty for a timeout."""
    by_id: str = ""
    """What Airflow's auth manager calls the user; the same as `by` where names are ids."""
    at: datetime
    asked_by: tuple[str, ...] = ()
    """Who triggered the run or trained the candidate, where known: they may not approve."""


class Promotion(ValueObject):
    """A move of the champion alias, or the reason why none was made."""

    model: str
    moved: bool
    outcome: Literal["promoted", "held", "rejected", "unchanged", "rolled_back", "rolled_forward", "restored"]
    """held: by the gate or its policy; rejected: by a person, or for want of one; unchanged: it was done already."""
    from_version: int | None
    to_version: int | None
    decision_digest: Sha256 | None
    """None for a rollback, which a person orders."""
    report_uri: str | None = None
    """What a person reads about the decision."""
    ledger_entry: int | None
    message: str


class Reconciliation(ValueObject):
    """What a comparison of alias, ledger and tags found, and did."""

    model: str
    state: Literal["agrees", "finished", "restored", "alarm"]
    """finished: a move that was cut short was carried out; restored: the alias was put back; alarm: see problems."""
    champion: int | None
    """What the alias names now; None for the base model, or a deleted version."""
    expected: int | None
    """What the ledger names; None for the base model."""
    ledger_entries: int
    problems: tuple[str, ...] = ()
    """What did not fit, before anything was put right."""
    message: str


class LedgerEntry(ValueObject):
    """One move of an alias. Entries are numbered from 1, each naming the digest of the one before.

    The approval is left out of the JSON where nobody was asked: earlier entries keep their digest.
    """

    sequence: Annotated[int, Field(gt=0)]
    previous_digest: Sha256 | None
    at: datetime
    actor: str
    action: Literal["promote", "rollback", "forward", "restore"]
    """forward: back to a version that a rollback had left; restore: the alias had been moved by hand and was put back,
    from and to are the same."""
    model: str
    alias: Literal["champion"] = "champion"
    from_version: int | None
    to_version: int | None
    """None: the base model itself; the alias is then not set."""
    weights_digest: Sha256 | None
    """Of the weights moved to; None for a base model whose digest nothing in the registry tells any more."""
    decision_digest: Sha256 | None
    report_uri: str | None
    reason: str = ""
    approver: str = Field(default="", exclude_if="".__eq__)
    """Who agreed, where the project asks a person."""
    approved_at: datetime | None = Field(default=None, exclude_if=lambda moment: moment is None)
