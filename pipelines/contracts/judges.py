"""Value objects of judges: reward reports, registered judges, calibration records and the right to vote."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from alignment.catalogues.rewards import Pal, Reward
from alignment.contracts.calibration import Calibration, JudgeCalibration
from alignment.contracts.reward_models import RewardAccuracy
from alignment.contracts.values import Record, Sha256, ValueObject


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
