"""Classes of the tables of projects/NAME.toml. Torch-free and airflow-free."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.rewards import Reward
from alignment.contracts.evaluation import Sampler
from alignment.contracts.jobs import Placement
from alignment.contracts.labelling import PROMPT_FIELD, LabelMethod, check_labelers, check_templates
from alignment.contracts.reward_models import RewardRecipe
from alignment.contracts.values import Record, Share
from pipelines.project.columns import ColumnsSection
from pipelines.project.paths import LocalPath, RecipePath
from pipelines.project.schedules import Cron, Schedule, Timezone

REWARD_SCHEME = "reward://"
"""URI scheme of the reward models that the project trains."""
TO_DO = "TODO"
"""Beginning of a value that `plumbline new` leaves to the user; `plumbline doctor` reports it."""
SELF_GENERATED = "self_generated"
"""Kind of the sources whose images the base model generates."""


class Section(Record):
    """A table of the project file."""


class BaseModelSection(Section):
    """The model to align."""

    uri: LocalPath
    """Local folder in the diffusers layout, `s3://...`, or `hub://owner/name@revision` (revision = commit sha)."""
    licence: str
    """Licence of the weights, as free text."""
    backbone: Backbone
    """Model family and resolution."""


class DrawSection(Section):
    """Pairs that the base model generates. By default only the chosen image's prompt gets additional words."""

    prompts: LocalPath
    """UTF-8 text file, one prompt a line, without evaluation prompts; local or s3://."""
    chosen_template: str
    """Prompt of the chosen image, e.g. `{prompt}, in pixel art style`."""
    rejected_template: str = PROMPT_FIELD
    """Prompt of the rejected image."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """Seeds; each generates one pair for every prompt."""
    sampler: Sampler
    """Settings of the sampler."""

    @model_validator(mode="after")
    def _templates_fit(self) -> Self:
        check_templates(self.chosen_template, self.rejected_template)
        return self


class SourceSection(Section):
    """A source of preference pairs."""

    name: str
    """Name of the source in reports, snapshots and other tables."""
    kind: str
    """Kind of the source, one of those in pipelines/intake/sources/catalogue.py."""
    uri: LocalPath = ""
    """Folder or prefix of the shards, or a file, local or s3://; of a feedback source an SQLite file or a postgresql://
    address without a password. Empty for a self_generated source."""
    licence: str
    """Licence of the pairs, as free text."""
    data_sets: tuple[str, ...] = ()
    """Public data sets that the pairs come from, by the names that judges know: `pick_a_pic_v1`, `pick_a_pic_v2`,
    `hpd_v2`, `hpd_v3`, `image_reward_db`. A judge trained on one has no vote on models trained on this source."""
    on_removed: Literal["withdraw", "keep"] = "withdraw"
    """Treatment of pairs whose shard the source no longer has: leave them out of the next snapshot, or keep them."""
    draw: DrawSection | None = None
    """Prompts and sampler of a self_generated source."""
    split: str = ""
    """Split to read where a folder holds several, e.g. `train`."""
    columns: ColumnsSection | None = None
    """Columns of a source of kind table, likes, label_studio or argilla."""
    fetch_urls: bool = False
    """True fetches images that a table names by https address; their hosts must be in url_hosts."""
    url_hosts: tuple[str, ...] = ()
    """Hosts from which images may be fetched. Redirects and addresses of a private network are refused."""

    @model_validator(mode="after")
    def _says_where_from(self) -> Self:
        if (self.kind == SELF_GENERATED) != (self.draw is not None) or bool(self.uri) == (self.draw is not None):
            needs = "[sources.draw] and no uri" if self.kind == SELF_GENERATED else "a uri and no [sources.draw]"
            raise ValueError(f"source {self.name!r} of kind {self.kind!r} needs {needs}")
        if self.fetch_urls != bool(self.url_hosts):
            raise ValueError(
                f"source {self.name!r}: fetch_urls = true and url_hosts go together; list the hosts of the images, e.g."
                ' url_hosts = ["images.example.org"]'
            )
        return self

    @model_validator(mode="after")
    def _has_columns_of_its_kind(self) -> Self:
        if self.columns is None or self.kind == "huggingface" or (self.kind == "likes") == bool(self.columns.image):
            return self
        here, other = ("one image", "two") if self.kind == "likes" else ("two images", "one")
        raise ValueError(
            f"source {self.name!r} of kind {self.kind!r} has {here} a row, but its [sources.columns] name {other}:"
            " `image` and `liked` are for kind likes, the columns of two images for kind table"
        )


class ValidationSection(Section):
    """Limits of the data rules."""

    max_quarantined_share: Share = 0.2
    """Largest share of bad rows in a batch; above it the entire batch fails."""
    max_failed_shards: Share = 0.25
    """Largest share of shards that may be unreadable or fail as a batch while the others are used; above it none is."""
    max_image_bytes: int = 20_000_000
    """Largest encoded image, in bytes."""
    max_image_pixels: int = 50_000_000
    """Largest number of pixels of an image, width times height."""
    max_image_side: int = 16_384
    """Longest side of an image, in pixels."""
    min_image_side: int = 32
    """Shortest side of an image, in pixels."""
    max_decode_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Longest time to decode an image, in CPU seconds. An ordinary image takes a few milliseconds."""
    ground: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#ffffff"
    """Colour behind transparent parts of images when people judged them, as `#rrggbb`."""
    max_prompt_chars: int = 10_000
    """Longest prompt, in characters."""
    max_position_bias: Share = 0.1
    """Largest share of preferences for one side beyond one half, e.g. 0.1 for 60 % left; above it the batch fails. Not
    checked below 100 preferences, nor where all are on one side because the source lists the chosen image first."""
    allowed_formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")
    """Allowed image formats, by Pillow's names."""
    max_annotator_share: Share = 0.5
    """Largest share of a batch by one annotator; above it reported, of 5 annotators or more as `annotator_severity`."""
    max_annotator_side_share: Share = 0.95
    """Largest share of an annotator's preferences for one side, from 100 on, unless the whole batch is on that side."""
    max_annotator_disagreement: Share = 0.75
    """Largest share of preferences against most others on the same pairs, from 20 on; above it only reported."""
    annotator_severity: Literal["warn", "quarantine"] = "quarantine"
    """Treatment of annotators above the limits of share and side: only report them, or quarantine their rows."""


class SnapshotSection(Section):
    """Splits of the accepted pairs, by prompt group, so that no prompt is in two splits."""

    calibration_share: Share = 0.15
    """Share of the prompt groups whose pairs calibrate the judges."""
    test_share: Share = 0.1
    """Share of the prompt groups whose pairs are reserved for tests."""
    seed: int = 0
    """Seed of the split."""
    minimum_new_pairs: Annotated[int, Field(ge=0)] = 0
    """Fewest new pairs since the last candidate that start a training."""
    labels: Literal["hard", "soft", "majority"] = "hard"
    """Labels of the snapshot. hard: each annotator's comparison separately, and a share of votes as the side that it
    favours; soft: one row for each comparison, with the share of all votes; majority: one row, with the side that most
    votes are for."""
    label_threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.5
    """Smallest share of votes that makes a hard label; below it the pair is a tie."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs train the model; empty: all. Other sources may train an independent judge."""


class RecipeSection(Section):
    """One recipe to train, with overrides."""

    recipe: RecipePath
    """Name of a recipe in the package, or path of a recipe file."""
    overrides: tuple[str, ...] = ()
    """Changes to fields of the recipe, such as `"objective.beta=2000"`."""


class JudgeSection(Section):
    """A judge or a guard."""

    name: str
    """Name of the scorer in reports and other tables."""
    uri: LocalPath = ""
    """Folder of the weights; empty for a scorer without weights."""
    scorer: Reward
    """Kind of scorer, with its parameters."""
    trained_on: tuple[str, ...] = ()
    """Sources of the labels that it was trained on, besides those already known for published weights."""
    encoder_family: str = ""
    """Family of its encoder, such as `"clip_vit_h_14"`, if Plumbline cannot tell: it knows the published judges, and
    finds weights that were fine-tuned from one encoder."""

    @model_validator(mode="after")
    def _has_its_weights(self) -> Self:
        if bool(self.uri) != self.scorer.has_weights:
            needed = "needs a uri, the folder of its weights" if self.scorer.has_weights else "has no weights: omit uri"
            raise ValueError(f"scorer {self.name!r} of this kind {needed}")
        return self


class PromptSetSection(Section):
    """A named set of prompts. They are held out of training even if the evaluation does not use them."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
    """Name of the set, which `evaluation.prompts` may refer to."""
    prompts: LocalPath
    """Tab-separated file with the header `prompt<TAB>category`, as written by `plumbline prompts import`; local or
    s3://."""


class EvaluationSection(Section):
    """Prompts, seeds, sampler and judges of the gate."""

    prompts: LocalPath
    """Name of a prompt set, or a tab-separated file with the header `prompt<TAB>category`. The snapshot stage holds
    these prompts out of training."""
    seeds: tuple[int, ...]
    """Seeds; each draws one image of every prompt."""
    sampler: Sampler
    """Settings of the sampler."""
    judges: Annotated[tuple[JudgeSection, ...], Field(min_length=1)]
    """Scorers that vote on a candidate."""
    guards: tuple[JudgeSection, ...] = ()
    """Scorers under which a candidate must not get worse. They do not vote."""
    tie_thresholds: dict[str, float] = Field(default_factory=dict)
    """Largest difference that counts as a tie, by scorer name, in the scorer's units. `plumbline gate aa` measures
    these."""
    confidence: float = 0.95
    """Two-sided confidence level of all intervals, between 0.5 and 1."""

    @model_validator(mode="after")
    def _prompts_have_the_seeds_their_scorers_need(self) -> Self:
        voting = [judge.name for judge in self.judges if judge.scorer.per_prompt]
        if voting:
            raise ValueError(
                f"{', '.join(voting)} scores the seeds of a prompt together, so it can be a guard but not a judge."
                " Move it to [[evaluation.guards]]"
            )
        if len(self.seeds) < 2 and any(guard.scorer.per_prompt for guard in self.guards):
            raise ValueError("a diversity guard compares the seeds of a prompt; give two or more seeds")
        return self


class CoverageSection(Section):
    """Best-of-N measurement: the gain from choosing the best of several images. Informative; it does not vote."""

    judge: str
    """Name of a judge or guard of the evaluation."""
    num_prompts: Annotated[int, Field(gt=0)] = 50
    """Number of prompts, spread evenly over the evaluation's prompts."""
    num_samples: Annotated[int, Field(ge=2)] = 8
    """Number of images of each prompt."""
    bar: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Quantile of the base model's scores for a prompt. An image that scores above it counts as good."""


class OnlineSection(Section):
    """Prompts and rewards of online recipes. Each recipe names its reward."""

    prompts: LocalPath
    """UTF-8 text file, one prompt a line, without evaluation prompts; local or s3://."""
    rewards: tuple[JudgeSection, ...] = ()
    """Scorers that are only rewards. A recipe may also name a judge or guard, which then may not judge its result."""


class UniformSoupSection(Section):
    """Average of the weights of all runs of `[[train]]`, as one candidate."""

    method: Literal["uniform"]
    """Gives every run the same weight."""


class GreedySoupSection(Section):
    """Average of the weights of the best run of `[[train]]` and each other run that improves it, as one candidate."""

    method: Literal["greedy"]
    """Adds each run that improves the judge's mean score."""
    judge: str
    """Name of a scorer of the project. Because it selects the candidate, the gate does not let it vote."""
    judges: tuple[JudgeSection, ...] = ()
    """Scorers that are only used to select runs."""
    prompts: LocalPath
    """Tab-separated file with the header `prompt<TAB>category`, without evaluation prompts; local or s3://."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds; each draws one image of every prompt."""
    sampler: Sampler | None = None
    """Settings of the sampler; none: those of the evaluation."""
    minimum_gain: Annotated[float, Field(ge=0)]
    """Smallest gain of the judge's mean for which a run is added, in the judge's units. Set it above the noise of the
    mean."""


class RewardSection(Section):
    """A reward model trained on the project's pairs. Use it as a judge or reward with the URI `reward://NAME`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
    """Name of the reward model."""
    encoder: LocalPath
    """Folder of a CLIP model that embeds images and prompts. Its weights stay frozen and become part of the judge."""
    recipe: RewardRecipe
    """Head, optimiser, batch, steps and seed. Its name is the name of the reward model."""
    mixture: tuple[float, ...] = ()
    """Weights of the prototypes in the judge's score; empty: the mean over the users in the training data."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs it learns from; empty: all. It may not judge a model that learns from one of them."""
    trained_on: tuple[str, ...] = ()
    """Sources of human labels that the encoder was trained on; empty for an encoder trained only on captions."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_recipe(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("recipe"), dict):
            return {**data, "recipe": {"name": data.get("name", ""), **data["recipe"]}}
        return data


class LabellingSection(Section):
    """Labelling of training pairs by judges. Calibration and test pairs keep their human labels."""

    judges: tuple[str, ...] = ()
    """Names of scorers of the project. They may not judge a model that learns from their labels."""
    scorers: tuple[JudgeSection, ...] = ()
    """Scorers that are only used to label."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs get new labels; empty: all except self_generated sources."""
    human_sources: tuple[str, ...] = ()
    """Sources whose labels are human ground truth for a label model; empty: all except self_generated sources."""
    method: LabelMethod
    """Method that derives labels from scores."""

    @model_validator(mode="after")
    def _has_its_labelers(self) -> Self:
        check_labelers(self.method, len(self.judges))
        return self


class PlacementSection(Section):
    """Placement of each kind of job."""

    draw_pairs: Placement = Placement()
    """Jobs that draw pairs."""
    label: Placement = Placement()
    """Jobs that label pairs."""
    caption: Placement = Placement()
    """Jobs that write captions."""
    encode: Placement = Placement()
    """Jobs that compute features."""
    train: Placement = Placement()
    """Training jobs."""
    soup: Placement = Placement()
    """Jobs that average the weights of runs."""
    reward: Placement = Placement()
    """Jobs that train reward models."""
    evaluate: Placement = Placement()
    """Jobs that draw and score evaluation images."""


class ScheduleSection(Section):
    """Schedules and owner of the DAGs."""

    ingest: Schedule | None = None
    """Cron expression or preset of the ingest DAG; none: only by hand."""
    train: Cron | None = None
    """Cron expression or preset of the train DAG, in addition to new pairs and requests of the monitor; none: only
    these. A scheduled run trains regardless of the number of new pairs."""
    reward: Schedule | None = None
    """Cron expression or preset of the reward DAG; none: whenever there are new pairs."""
    reconcile: Schedule | None = "@hourly"
    """Cron expression or preset of the reconcile DAG; none: only by hand."""
    timezone: Timezone = ""
    """Time zone of all schedules of the project, those of the monitor included, such as `Europe/Berlin`; empty: that of
    Airflow's setting `[core] default_timezone`."""
    paused: bool | None = None
    """True creates the DAGs `ingest`, `train`, `promote`, `calibrate` and `reward` paused, so that nothing runs before
    you unpause them; none: as Airflow's `[core] dags_are_paused_at_creation`, by default paused. Those that monitor and
    restore the champion are always created unpaused."""
    owner: str = "plumbline"
    """Owner of the DAGs in Airflow."""
