"""Value objects of the release: candidates, decisions, approvals and moves. Frozen, plain JSON that fits in an XCom."""

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
    """Folder of the TrainResult in the store."""
    spec_digest: Sha256
    base_digest: Sha256
    snapshot_digest: Sha256
    snapshot_uri: str = ""
    """Folder of the snapshot that it was trained on. The calibration split of that snapshot checks the judges."""
    trained_on: tuple[str, ...]
    """Names of the pair sources and judges whose labels trained the weights or whose scores selected them."""
    run_id: str
    prediction_norm_ratios: tuple[float, ...] = Field(default=(), exclude_if=().__eq__)
    """Mean norm of the policy's predictions over the base's, by timestep bin; empty if training did not measure it."""


CheckKind = Literal[
    "differs_from_champion", "candidate_digest", "champion_digest", "ungated_champion", "prompts_digest",
    "prompts", "scoring_problems", "measurements", "score_table",
    "may_vote", "voting_judges", "superiority", "win_rate", "mean_gain", "effect",
    "preferred_by_judges", "families", "veto", "tries", "combined",
    "guards", "guard", "slices", "slice",
    "trained_on_gap", "lone_judge", "persisting_gain", "rank_correlation", "drift", "prediction_norm",
    "power",
]  # fmt: skip
"""Every kind of check, including those that only older decisions in the store have."""

Relation = Literal[">", ">=", "<", "<=", "not below", "not clearly >", "within"]
"""Required relation of the measured value to the bound. The last three are tests, which a value beyond the bound can
pass."""


class GateCheck(Record):
    """One line of a decision: a measured value and the required one."""

    kind: CheckKind
    subject: str | None = None
    """The judge, guard or slice, or the first judge of a pair; None for a check on the whole evaluation."""
    limit: Literal["relative", "floor", "ceiling", "mcnemar", "anchor"] | None = None
    """Limit of a guard that was checked; None for its margin."""
    against: str | None = None
    """The second judge of a pair."""
    relation: Relation | None = None
    """Required relation to the bound; both are None for a condition without a number."""
    bound: FiniteFloat | None = None
    measured: float | None
    required: str = Field(default="", validate_default=True)
    """Requirement as text for people. Default: relation and bound, such as `> 0.5`. Code reads the fields instead."""
    passed: bool
    decisive: bool = True
    """False for a line that is informative and does not affect the verdict."""
    family: Literal["", "evidence", "votes", "guards", "slices", "detectors", "power"] = ""
    """Group of the check. Reports show the checks of one family together."""
    note: Literal["", "undecided", "unmeasured", "warning"] = ""
    """Qualifies the result. undecided: more prompts are needed; unmeasured: there was no evidence; warning: it failed
    without consequence."""
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
        """Subject, limit and second judge, without those that are None."""
        return tuple(part for part in (self.subject, self.limit, self.against) if part is not None)

    @property
    def name(self) -> str:
        """Kind and `about`, joined by colons, for people: `guard:diversity:floor`."""
        return ":".join((self.kind, *self.about))


class GateDecision(ValueObject):
    """The verdict on a candidate, with every check that led to it."""

    schema_version: int = FIELDS_SINCE
    verdict: Literal["promote", "hold", "inconclusive", "invalid"]
    mode: Literal["off", "dry_run", "enforce"]
    checks: tuple[GateCheck, ...]
    reasons: tuple[str, ...]
    """Reasons against promotion; empty if the verdict is `promote`."""
    candidate: CandidateVersion
    champion_version: int | None
    """None if the champion is the base model."""
    champion_weights_digest: Sha256
    report_digest: Sha256
    evaluation_uri: str
    """Folder of the EvalReport, with the score table from which the decision can be recomputed."""
    report_uri: str
    """Report for people."""
    scores_digest: Sha256
    policy_digest: Sha256

    @model_serializer(mode="wrap")
    def _write_own_version(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the checks in the form of the decision's schema version, which its digest is computed from."""
        written: dict[str, Any] = handler(self)
        if self.schema_version < FIELDS_SINCE:
            own = zip(written["checks"], self.checks, strict=True)
            written["checks"] = [write_check(fields, check.name) for fields, check in own]
        return written


class ComparedScorer(Record):
    """A judge's or guard's comparison of two versions. The unit is the prompt: seeds are averaged first."""

    scorer: str
    win_rate: FiniteFloat
    """Share of prompts that the first version wins; a tie counts half."""
    win_rate_low: FiniteFloat
    win_rate_high: FiniteFloat
    mean_difference: FiniteFloat
    """Mean over prompts of first minus second, in the scorer's own units."""
    mean_difference_low: FiniteFloat
    mean_difference_high: FiniteFloat


class VersionComparison(ValueObject):
    """Two versions compared with the gate's checks. It moves no alias and is no decision."""

    model: str
    first: int
    second: int | None
    """None for the base model."""
    outcome: Literal["better", "not_better", "unclear", "not_comparable"]
    """better: the gate would promote the first version over the second."""
    reasons: tuple[str, ...]
    """Reasons why the first version is not better; empty if it is."""
    scorers: tuple[ComparedScorer, ...]
    num_prompts: int
    evaluation_uri: str
    report_uri: str
    """Page for people, with the images of both side by side."""


class Approval(ValueObject):
    """A person's answer to the question whether a candidate may become champion."""

    decision_digest: Sha256
    answer: Literal["approve", "reject", "timeout"]
    """timeout: there was no answer in time."""
    by: str = ""
    """User name; empty for a timeout."""
    by_id: str = ""
    """Id of the user in Airflow's auth manager; equal to `by` if user names are ids."""
    at: datetime
    asked_by: tuple[str, ...] = ()
    """Users who triggered the run or trained the candidate, if known. They may not approve."""


class Promotion(ValueObject):
    """A move of the champion alias, or the reason for not moving it."""

    model: str
    moved: bool
    outcome: Literal[
        "promoted", "promoted_by_hand", "held", "rejected", "unchanged", "rolled_back", "rolled_forward", "restored"
    ]
    """promoted_by_hand: by a person, ungated; held: by the gate or its policy; rejected: a person refused or did not
    answer; unchanged: already done before."""
    from_version: int | None
    to_version: int | None
    decision_digest: Sha256 | None
    """None for a rollback and for a promotion by hand, which need no decision of the gate."""
    report_uri: str | None = None
    """Report about the decision, for people."""
    ledger_entry: int | None
    message: str


class Reconciliation(ValueObject):
    """Result of a comparison of alias, ledger and tags, and the action taken."""

    model: str
    state: Literal["agrees", "finished", "restored", "alarm"]
    """finished: an interrupted move was completed; restored: the alias was put back; alarm: see problems."""
    champion: int | None
    """Version that the alias names now; None for the base model or a deleted version."""
    expected: int | None
    """Version that the ledger names; None for the base model."""
    ledger_entries: int
    problems: tuple[str, ...] = ()
    """Differences that were found, before any was corrected."""
    message: str


LedgerAction = Literal["promote", "by_hand", "rollback", "forward", "restore"]
"""promote: by a decision of the gate; by_hand: by a person while the gate is off, so ungated; forward: return to a
version that a rollback left; restore: the alias was moved outside Plumbline and was put back."""


class LedgerEntry(ValueObject):
    """One move of an alias. Entries are numbered from 1; each contains the digest of the entry before.

    The JSON omits the approval if none was needed, so that older entries keep their digest.
    """

    sequence: Annotated[int, Field(gt=0)]
    previous_digest: Sha256 | None
    at: datetime
    actor: str
    action: LedgerAction
    """With `restore`, from_version and to_version are equal."""
    model: str
    alias: Literal["champion"] = "champion"
    from_version: int | None
    to_version: int | None
    """None for the base model; the alias is then not set."""
    weights_digest: Sha256 | None
    """Digest of the new champion's weights; None for a base model whose digest the registry no longer holds."""
    decision_digest: Sha256 | None
    report_uri: str | None
    reason: str = ""
    approver: str = Field(default="", exclude_if="".__eq__)
    """User who approved, if the project requires an approval."""
    approved_at: datetime | None = Field(default=None, exclude_if=lambda moment: moment is None)
