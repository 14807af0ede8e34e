"""Value objects only the control plane sees. Frozen, plain JSON; they fit in an XCom."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from alignment.contracts.names import check_name
from alignment.contracts.values import Sha256, ValueObject

# --- store ----------------------------------------------------------------------------------------------------------


# --- intake ---------------------------------------------------------------------------------------------------------


# --- dispatch -------------------------------------------------------------------------------------------------------


def _empty_or_relative(name: str) -> str:
    return check_name(name, "its folder") if name else name


def _empty_or_file_name(name: str) -> str:
    if "/" in _empty_or_relative(name):
        raise ValueError(f"Alias {name!r} is no file name. Allowed: one name without '/'.")
    return name


# --- judges of our own ----------------------------------------------------------------------------------------------


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
