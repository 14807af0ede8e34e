"""Value objects of judges: reward reports, registered judges, calibration records and the right to vote."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from alignment.catalogues.rewards import Pal, Reward
from alignment.contracts.calibration import Calibration, JudgeCalibration
from alignment.contracts.reward_models import RewardAccuracy
from alignment.contracts.values import Record, Sha256, ValueObject


class RewardReport(ValueObject):
    """Accuracy of a reward model on held-out comparisons, beside a baseline that gives every user the same taste."""

    head: Literal["pal_a", "pal_b", "bradley_terry"]
    num_pairs: int
    num_users: int
    best_step: int
    mixture: tuple[float, ...]
    """Weights of the prototypes in the judge's score."""
    accuracies: tuple[RewardAccuracy, ...]
    """Accuracy on seen users, then on unseen users by number of labels; `baseline_accuracy` is the baseline's."""


class RegisteredJudge(ValueObject):
    """A reward model that this project trained. The project file refers to it as `reward://NAME`."""

    project: str
    name: str
    number: Annotated[int, Field(ge=0)] = 0
    """Number among the judges of this name, of which the newest is used. 0 before it is published."""
    uri: str
    """Folder of the RewardTrainResult in the store. Its sub-folder judge/ holds the scorer."""
    judge_digest: Sha256
    spec_digest: Sha256
    snapshot_digest: Sha256
    scorer: Reward = Pal()
    trained_on: tuple[str, ...]
    """Pair sources whose labels it learnt from. It may not judge a model that learnt from one of them."""
    report: RewardReport
    calibration: Calibration | None = None
    """Agreement with held-out human labels, if measured before registration. The gate does its own measurement."""


class CalibrationRecord(ValueObject):
    """A stored calibration of a judge, numbered within the judge's name."""

    project: str
    number: Annotated[int, Field(ge=0)] = 0
    """Number among the calibrations of this judge's name; 0 before it is stored."""
    calibration: JudgeCalibration
    alpha: float | None
    """Krippendorff's alpha of the annotators whose labels the judge was compared with."""
    report_uri: str
    """Folder of the CalibrationReport."""
    scores_digest: Sha256
    recorded_at: AwareDatetime

    @property
    def age_from(self) -> AwareDatetime:
        """Time that the age is counted from: the newest human pair, or the calibration if pairs have no dates."""
        return self.calibration.newest_pair_at or self.recorded_at


class JudgeState(Record):
    """The right of one judge of the project to vote, with the reasons if it has none."""

    judge: str
    kind: str
    weights_digest: Sha256 | None
    """None while there are no weights, as for a reward that is not trained yet."""
    may_vote: bool
    reasons: tuple[str, ...]
    """Reasons why it may not vote, each the end of a sentence that begins with the judge's name."""
    unmeasured: bool = False
    """True if the only reason is that its agreement with people was not measured yet."""
    accuracy: float | None = None
    accuracy_low: float | None = None
    num_pairs: int = 0
    age_days: float | None = None
    alpha: float | None = None
    """Krippendorff's alpha: agreement among the annotators themselves, which limits what a judge can reach."""
    shows_60_as: float | None = None
    """Win rate under this judge that corresponds to a win rate of 60 % among people."""
    weak_slices: tuple[str, ...] = ()
    """Sources and generators with enough pairs in which its agreement is not shown to exceed the floor."""
    report_uri: str = ""
    """Folder of the report that measured its agreement: a CalibrationReport or, without one, the last EvalReport."""
