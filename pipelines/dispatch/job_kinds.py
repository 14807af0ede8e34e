"""The kinds of job: a frozen class each.

The class is the catalogue entry. An instance is one job to run: its fields are the value objects from which the builder
makes the request. A new kind is a class here and a file of that name in alignment/jobs.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BeforeValidator, ValidationInfo

from alignment.catalogues.lookup import resolve, unknown_name
from alignment.config import validate
from alignment.contracts.calibration import CalibrationSpec
from alignment.contracts.captions import CaptionSpec
from alignment.contracts.coverage import CoverageSpec
from alignment.contracts.data import DatasetSnapshot, EncodeSpec, FeatureCache
from alignment.contracts.evaluation import EvalSpec
from alignment.contracts.jobs import SAMPLES_DIR, SCORE_PIECES_DIR
from alignment.contracts.labelling import DrawSpec, LabelSpec
from alignment.contracts.reference_errors import ReferenceErrors, ReferenceSpec
from alignment.contracts.reward_models import RewardTrainSpec
from alignment.contracts.soup import SoupSpec
from alignment.contracts.training import Recipe, TrainResult, TrainSpec
from alignment.contracts.values import PositiveInt, Record, ValueObject
from pipelines.contracts.jobs import JobKind, JobRequest
from pipelines.contracts.release import CandidateVersion
from pipelines.project.file import Project
from pipelines.project.sections import RewardSection, SourceSection
from pipelines.workspace import Workspace

__all__ = [
    "JOB_KINDS",
    "Calibrate",
    "Caption",
    "Coverage",
    "DrawPairs",
    "Encode",
    "Evaluate",
    "Job",
    "Label",
    "Reference",
    "Soup",
    "Train",
    "TrainReward",
    "find_kind",
    "kind_of",
]


Item = TypeVar("Item")


class Job(Record):
    """One job to run. Each subclass is a kind of job; see the module."""

    name: ClassVar[JobKind]
    """The job's file in alignment/jobs. Job ids, records and runs carry it, so it never changes."""
    spec: ClassVar[type[ValueObject]]
    """The specification that the job reads; every kind has a different class."""
    folder: ClassVar[str]
    """Folder of the store for the results."""
    placement: ClassVar[str]
    """A field of the project's [placement]."""
    builder: ClassVar[str]
    """`module:function`, which makes the JobRequest from (workspace, job)."""
    left_out: ClassVar[tuple[str, ...]] = ()
    """Files and folders of the output that are not published, in addition to those of every job."""

    @classmethod
    def read(cls, given: Mapping[str, Any], project: Project) -> Self:
        """Read a job from plain JSON, which refers to recipes and rewards by position in the project file, sources by
        name.

        ValueError names every field that is missing, unknown or wrong.
        """
        return validate(cls, dict(given), what=f"Job {cls.name}", context=project)

    def request(self, workspace: Workspace) -> JobRequest:
        """Make the request that an engine runs. ValueError when the project or a file does not allow the job."""
        request: JobRequest = resolve(self.builder)(workspace, self)
        return request


# --- fields: the value object itself or, in JSON, its name in the project file ---------------------------------------


def _at(items: Sequence[Item], position: Any, what: str) -> Item:
    index = int(position)
    if not 0 <= index < len(items):
        raise ValueError(f"There is no {what} {index}. The project file has {len(items)}, counted from 0.")
    return items[index]


def _recipe(value: Any, info: ValidationInfo[Project]) -> Recipe:
    return value if isinstance(value, Recipe) else _at(info.context.recipes(), value, "recipe")


def _reward(value: Any, info: ValidationInfo[Project]) -> RewardSection:
    return value if isinstance(value, RewardSection) else _at(info.context.rewards, value, "reward")


def _source(value: Any, info: ValidationInfo[Project]) -> SourceSection:
    if isinstance(value, SourceSection):
        return value
    sources = {source.name: source for source in info.context.sources}
    if value not in sources:
        raise ValueError(unknown_name("source", str(value), sources))
    return sources[value]


def _whole(values: Any) -> Any:
    # By slice: Airflow yields the results of mapped tasks one by one, and logs an error for a read past their end.
    return values[:]


ProjectRecipe = Annotated[Recipe, BeforeValidator(_recipe)]
ProjectReward = Annotated[RewardSection, BeforeValidator(_reward)]
ProjectSource = Annotated[SourceSection, BeforeValidator(_source)]


# --- kinds ----------------------------------------------------------------------------------------------------------


class DrawPairs(Job):
    """Draw the pairs of a self_generated source with the base model."""

    name = "draw_pairs"
    spec = DrawSpec
    folder = "drawn"
    placement = "draw_pairs"
    builder = "pipelines.dispatch.requests.pairs:draw_request"

    source: ProjectSource


class Label(Job):
    """Label a snapshot's training pairs as [labelling] describes."""

    name = "label"
    spec = LabelSpec
    folder = "snapshots"
    placement = "label"
    builder = "pipelines.dispatch.requests.pairs:label_request"

    snapshot: DatasetSnapshot


class Caption(Job):
    """Write separate captions for the two images of a pair, as [captions] describes."""

    name = "caption"
    spec = CaptionSpec
    folder = "snapshots"
    placement = "caption"
    builder = "pipelines.dispatch.requests.pairs:caption_request"

    snapshot: DatasetSnapshot


class Encode(Job):
    """Encode a snapshot's training pairs for the backbone of a recipe."""

    name = "encode"
    spec = EncodeSpec
    folder = "features"
    placement = "encode"
    builder = "pipelines.dispatch.requests.training:encode_request"

    snapshot: DatasetSnapshot
    recipe: ProjectRecipe


class Reference(Job):
    """Compute the base's errors that several recipes need, once for all of them."""

    name = "reference_errors"
    spec = ReferenceSpec
    folder = "reference_errors"
    placement = "train"
    builder = "pipelines.dispatch.requests.training:reference_request"

    recipe: ProjectRecipe
    """Any of the recipes."""
    cache: FeatureCache
    num_visits: PositiveInt
    """Number of pairs that the longest of the recipes sees, counted once per epoch."""


class Train(Job):
    """Train a recipe on a feature cache or, if it is online, on the project's prompts and a reward."""

    name = "train"
    spec = TrainSpec
    folder = "models"
    placement = "train"
    builder = "pipelines.dispatch.requests.training:train_request"

    recipe: ProjectRecipe
    cache: FeatureCache | None = None
    """None for an online recipe, which draws its own images."""
    snapshot: DatasetSnapshot | None = None
    """Snapshot of the cache; registration reads it from the plan of trainings, the request does not."""
    reference: ReferenceErrors | None = None
    """The base's errors, if they were computed before. They change neither the specification nor the curve."""


class Soup(Job):
    """Average finished runs as [soup] describes."""

    name = "soup"
    spec = SoupSpec
    folder = "soups"
    placement = "soup"
    builder = "pipelines.dispatch.requests.training:soup_request"

    trainings: Annotated[tuple[Train, ...], BeforeValidator(_whole)]
    results: Annotated[tuple[TrainResult, ...], BeforeValidator(_whole)]
    """Results of the trainings, in their order."""


class TrainReward(Job):
    """Train a preference head on a snapshot's comparisons and on a frozen encoder."""

    name = "train_reward"
    spec = RewardTrainSpec
    folder = "rewards"
    placement = "reward"
    builder = "pipelines.dispatch.requests.training:reward_request"

    snapshot: DatasetSnapshot
    reward: ProjectReward


class Evaluate(Job):
    """Sample and judge a candidate against the champion and the base."""

    name = "evaluate"
    spec = EvalSpec
    folder = "evaluations"
    placement = "evaluate"
    builder = "pipelines.dispatch.requests.judging:evaluate_request"
    # An attempt may find in the store images that an earlier one began to draw itself.
    left_out = (SAMPLES_DIR, SCORE_PIECES_DIR)

    candidate: CandidateVersion
    champion: CandidateVersion | None = None
    """None while no version is champion, and the base is in its place. Stages fill it in."""


class Coverage(Job):
    """Draw many images of few prompts from candidate, champion and base, as [coverage] describes."""

    name = "coverage"
    spec = CoverageSpec
    folder = "evaluations"
    placement = "evaluate"
    builder = "pipelines.dispatch.requests.judging:coverage_request"
    left_out = Evaluate.left_out

    candidate: CandidateVersion
    champion: CandidateVersion | None = None
    """None while no version is champion, and the base is in its place. Stages fill it in."""


class Calibrate(Job):
    """Check the project's judges against the calibration split of a snapshot."""

    name = "calibrate"
    spec = CalibrationSpec
    folder = "calibrations/reports"
    placement = "evaluate"
    builder = "pipelines.dispatch.requests.judging:calibrate_request"

    snapshot: DatasetSnapshot


JOB_KINDS: tuple[type[Job], ...] = (
    *(DrawPairs, Label, Caption, Encode, Reference, Train),
    *(Soup, TrainReward, Evaluate, Coverage, Calibrate),
)


def find_kind(name: str) -> type[Job]:
    """Return the kind of a name; ValueError lists the known ones."""
    by_name = {kind.name: kind for kind in JOB_KINDS}
    if name not in by_name:
        raise ValueError(unknown_name("kind of job", name, by_name))
    return by_name[name]


def kind_of(spec: ValueObject) -> type[Job]:
    """Return the kind of job that reads a specification."""
    return next(kind for kind in JOB_KINDS if kind.spec is type(spec))
