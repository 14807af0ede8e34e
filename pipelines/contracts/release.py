"""Value objects only the control plane sees. Frozen, plain JSON; they fit in an XCom."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from alignment.contracts.values import Record, Sha256, ValueObject
from pipelines.contracts.earlier_decisions import FIELDS_SINCE, read_check, write_check


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


CheckKind = Literal[
    "differs_from_champion", "candidate_digest", "champion_digest", "prompts_digest",
    "prompts", "scoring_problems", "measurements", "score_table",
    "may_vote", "voting_judges", "superiority", "win_rate", "mean_gain", "effect", "preferred_by_judges",
    "guards", "guard", "slices", "slice",
    "trained_on_gap", "lone_judge", "persisting_gain", "rank_correlation", "drift",
    "power",
]  # fmt: skip
"""Every kind of check. One that the gate no longer makes stays in the list: decisions in the store have it."""

Relation = Literal[">", ">=", "<", "<=", "not below", "not clearly >", "within"]
"""How the measured value has to lie to the bound. The last three are tests, which a value beyond the bound can pass."""


class GateCheck(Record):
    """One line of a decision: what was measured, what was required."""

    kind: CheckKind
    subject: str | None = None
    """The judge, guard or slice, or the first judge of a pair; None of a check on the whole evaluation."""
    limit: Literal["relative", "floor", "ceiling", "mcnemar"] | None = None
    """Which limit of a guard; None for its margin."""
    against: str | None = None
    """The second judge of a pair."""
    relation: Relation | None = None
    """None, like the bound, for a condition without a number."""
    bound: FiniteFloat | None = None
    measured: float | None
    required: str = Field(default="", validate_default=True)
    """Relation and bound, or the condition, for people: `> 0.5`, which is the default. Code reads the fields."""
    passed: bool
    decisive: bool = True
    """False for a line that informs but does not vote."""
    family: Literal["", "evidence", "votes", "guards", "slices", "detectors", "power"] = ""
    """Which question it answers; checks of one family stand together."""
    note: Literal["", "undecided", "unmeasured", "warning"] = ""
    """What passed or failed does not say: undecided asks for more prompts, unmeasured had nothing to go by, a warning
    failed without consequence."""
    explanation: str

    @model_validator(mode="before")
    @classmethod
    def _read_version_2(cls, data: Any) -> Any:
        return read_check(data) if isinstance(data, dict) and "name" in data else data

    @field_validator("required")
    @classmethod
    def _render(cls, required: str, known: ValidationInfo) -> str:
        relation, bound = known.data.get("relation"), known.data.get("bound")
        return required or ("" if bound is None else f"{relation} {bound:g}")

    @property
    def about(self) -> tuple[str, ...]:
        """Subject and limit or second judge, as far as there are any."""
        return tuple(part for part in (self.subject, self.limit, self.against) if part is not None)

    @property
    def name(self) -> str:
        """Kind and `about`, joined by colons for people: `guard:diversity:floor`."""
        return ":".join((self.kind, *self.about))


class GateDecision(ValueObject):
    """The verdict on a candidate, with every check that led to it."""

    schema_version: int = FIELDS_SINCE
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

    @model_serializer(mode="wrap")
    def _write_own_version(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the checks in the form of the decision's own version: its digest is taken of that form."""
        written: dict[str, Any] = handler(self)
        if self.schema_version < FIELDS_SINCE:
            own = zip(written["checks"], self.checks, strict=True)
            written["checks"] = [write_check(fields, check.name) for fields, check in own]
        return written


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
