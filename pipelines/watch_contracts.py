"""Value objects of what is watched over time: judges' calibrations, and the champion. Frozen, plain JSON."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from alignment.contracts.calibration import JudgeCalibration
from alignment.contracts.values import Record, Sha256, ValueObject


class CalibrationRecord(ValueObject):
    """A judge's calibration as the project keeps it, numbered by judge."""

    project: str
    number: Annotated[int, Field(ge=0)] = 0
    """Counts the calibrations of one judge's name; 0 before it is kept."""
    calibration: JudgeCalibration
    alpha: float | None
    """Krippendorff's alpha of the people it was checked against."""
    report_uri: str
    """The CalibrationReport's folder."""
    scores_digest: Sha256
    recorded_at: AwareDatetime

    @property
    def speaks_of(self) -> AwareDatetime:
        """What its age is counted from: the newest human pair; where pairs have no dates, the calibration itself."""
        return self.calibration.newest_pair_at or self.recorded_at


class JudgeStanding(Record):
    """Whether a judge of the project may vote, and why not."""

    judge: str
    kind: str
    weights_digest: Sha256 | None
    """None while there are no weights: a reward that nobody has trained."""
    may_vote: bool
    reasons: tuple[str, ...]
    """Why not, each as the end of a sentence that begins with the judge."""
    accuracy: float | None = None
    accuracy_low: float | None = None
    num_pairs: int = 0
    age_days: float | None = None
    alpha: float | None = None
    """How far people agree among themselves: nobody asks a judge for more."""
    shows_60_as: float | None = None
    """The win rate that the judge shows where people's is 60 %."""
    weak_slices: tuple[str, ...] = ()
    """Sources and generators with pairs enough where its agreement is not shown to exceed the floor."""
    report_uri: str = ""


FindingStatus = Literal["ok", "retrain", "alarm", "unmeasured"]


class MonitorFinding(Record):
    """One question that the monitor asked."""

    name: str
    measured: float | None
    limit: str
    """Readable bound, e.g. `< 0.2`."""
    status: FindingStatus
    explanation: str


class MonitorReport(ValueObject):
    """How the champion stands against what came in since it was trained."""

    project: str
    at: AwareDatetime
    champion_version: int | None
    """None where the base model itself is served."""
    snapshot_digest: Sha256 | None
    """What the champion was trained on."""
    num_fresh_pairs: int
    """Accepted pairs of batches that it was not trained on."""
    findings: tuple[MonitorFinding, ...]
    outcome: Literal["ok", "retrain", "alarm"]
    """The gravest of the findings."""
    retrain: Literal["not_needed", "advised", "due", "held_back"]
    """advised: wanted, but the monitor was only asked to look; due: its run announces it next; held_back: wanted, but
    the last one is too recent."""
    uri: str = ""
    """Where this report is kept."""

    @property
    def alarms(self) -> tuple[str, ...]:
        """What a person has to look at."""
        return self._explanations("alarm")

    @property
    def reasons_to_retrain(self) -> tuple[str, ...]:
        """What a new candidate is wanted for."""
        return self._explanations("retrain")

    def _explanations(self, status: FindingStatus) -> tuple[str, ...]:
        return tuple(finding.explanation for finding in self.findings if finding.status == status)


class RetrainEntry(ValueObject):
    """A retraining that the monitor announced; the newest one limits the rate."""

    at: AwareDatetime
    key: str
    """The run that announced it, so that its retry is no second one."""
    reasons: tuple[str, ...]
