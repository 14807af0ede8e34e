"""The tables of projects/NAME.toml, one class each. Torch-free and airflow-free."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.rewards import Reward
from alignment.contracts.captions import Level, Variant
from alignment.contracts.evaluation import Sampler
from alignment.contracts.jobs import Placement
from alignment.contracts.labelling import PROMPT_FIELD, LabelMethod, check_labelers, check_templates
from alignment.contracts.reward_models import RewardRecipe
from alignment.contracts.values import Record, Share
from pipelines.project.paths import LocalPath, RecipePath
from pipelines.project.schedules import Cron, Schedule

REWARD_SCHEME = "reward://"
"""Before the name of a reward model that the project trains itself."""
SELF_GENERATED = "self_generated"
"""Kind of the sources that the base model draws itself."""


class Section(Record):
    """A table of the project file."""


class BaseModelSection(Section):
    """The model that is kept aligned."""

    uri: LocalPath
    """Local folder in the diffusers layout, `s3://...`, or `hub://owner/name@revision` (revision = commit sha)."""
    licence: str
    """Licence of the weights, as text."""
    backbone: Backbone
    """Model family and resolution."""


class DrawSection(Section):
    """Pairs that the base model draws itself: the chosen image with words added, the rejected one without."""

    prompts: LocalPath
    """UTF-8 text, one prompt a line, none of them an evaluation prompt; local or s3://."""
    chosen_template: str
    """Prompt of the chosen image, e.g. `{prompt}, in pixel art style`."""
    rejected_template: str = PROMPT_FIELD
    """Prompt of the rejected image."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """Seeds; each draws one pair for every prompt."""
    sampler: Sampler
    """Settings of the draw."""

    @model_validator(mode="after")
    def _templates_fit(self) -> Self:
        check_templates(self.chosen_template, self.rejected_template)
        return self


class SourceSection(Section):
    """A source of preference pairs."""

    name: str
    """Name of the source in reports, snapshots and other tables."""
    kind: str
    """A name of pipelines/intake/sources/catalogue.py."""
    uri: LocalPath = ""
    """Folder or prefix of shards, local or s3://; a self_generated source has none."""
    licence: str
    """Licence of the pairs, as text."""
    draw: DrawSection | None = None
    """Prompts and sampler of a self_generated source."""

    @model_validator(mode="after")
    def _says_where_from(self) -> Self:
        if (self.kind == SELF_GENERATED) != (self.draw is not None) or bool(self.uri) == (self.draw is not None):
            needs = "[sources.draw] and no uri" if self.kind == SELF_GENERATED else "a uri and no [sources.draw]"
            raise ValueError(f"source {self.name!r} of kind {self.kind!r} takes {needs}")
        return self


class ValidationSection(Section):
    """Limits of the data rules."""

    max_quarantined_share: Share = 0.2
    """A batch with more than this share of bad rows fails as a whole."""
    max_image_bytes: int = 20_000_000
    """Largest encoded image, in bytes."""
    max_image_pixels: int = 50_000_000
    """Most pixels of an image, width times height."""
    max_image_side: int = 16_384
    """Longest side of an image, in pixels."""
    min_image_side: int = 32
    """Shortest side of an image, in pixels."""
    max_prompt_chars: int = 2_000
    """Longest prompt, in characters."""
    allowed_formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")
    """Image formats, by Pillow's names."""
    max_annotator_share: Share = 0.5
    """An annotator who labelled more of a batch than this is flagged."""


class SnapshotSection(Section):
    """Split of the accepted pairs, by prompt group, so that no prompt is in two splits."""

    calibration_share: Share = 0.15
    """Share of the prompt groups whose pairs calibrate the judges."""
    test_share: Share = 0.1
    """Share of the prompt groups whose pairs are kept for tests."""
    seed: int = 0
    """Seed of the split."""
    minimum_new_pairs: Annotated[int, Field(ge=0)] = 0
    """Training waits until this many pairs are new since the last candidate."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs train the model; empty: all. Those left out may train an independent judge."""


class RecipeSection(Section):
    """One recipe to train, with overrides."""

    recipe: RecipePath
    """Name of a recipe of the package, or path of a recipe file."""
    overrides: tuple[str, ...] = ()
    """Changes to fields of the recipe, such as `"objective.beta=2000"`."""


class JudgeSection(Section):
    """A judge or a guard."""

    name: str
    """Name of the scorer in reports and other tables."""
    uri: LocalPath = ""
    """Folder of its weights; none for a scorer that has no weights."""
    scorer: Reward
    """Kind of scorer, with its parameters."""
    trained_on: tuple[str, ...] = ()
    """Sources of its labels, besides those of published weights, which its kind knows."""

    @model_validator(mode="after")
    def _has_its_weights(self) -> Self:
        if bool(self.uri) != self.scorer.has_weights:
            needed = "a uri, the folder of its weights" if self.scorer.has_weights else "no uri: it has no weights"
            raise ValueError(f"scorer {self.name!r} of this kind takes {needed}")
        return self


class PromptSetSection(Section):
    """Prompts under a name, held out of training whether or not the evaluation asks them at present."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
    """Name to state in `evaluation.prompts`."""
    prompts: LocalPath
    """Tab separated file, header `prompt<TAB>category`, as `plumbline prompts import` writes it; local or s3://."""


class EvaluationSection(Section):
    """Prompts, seeds, sampler and judges of the gate."""

    prompts: LocalPath
    """Name of a prompt set, or a tab separated file, header `prompt<TAB>category`; held out of training by the snapshot
    stage."""
    seeds: tuple[int, ...]
    """Seeds; each draws one image of every prompt."""
    sampler: Sampler
    """Settings of the draw."""
    judges: Annotated[tuple[JudgeSection, ...], Field(min_length=1)]
    """Scorers that vote on a candidate."""
    guards: tuple[JudgeSection, ...] = ()
    """Scorers that a candidate must not lose by; they do not vote."""
    tie_thresholds: dict[str, float] = Field(default_factory=dict)
    """By scorer name: differences up to this count as ties, in the scorer's units. `plumbline gate aa` measures
    them."""
    confidence: float = 0.95
    """Two-sided level of every interval, a share above 0.5."""

    @model_validator(mode="after")
    def _prompts_have_the_seeds_their_scorers_need(self) -> Self:
        voting = [judge.name for judge in self.judges if judge.scorer.per_prompt]
        if voting:
            raise ValueError(f"{', '.join(voting)} scores the seeds of a prompt together; it can guard but not judge")
        if len(self.seeds) < 2 and any(guard.scorer.per_prompt for guard in self.guards):
            raise ValueError("a diversity guard compares the seeds of a prompt; give two seeds or more")
        return self


class CoverageSection(Section):
    """Repeated sampling: what the best of several images is worth. Informs; it never votes."""

    judge: str
    """A judge or guard of the evaluation."""
    num_prompts: Annotated[int, Field(gt=0)] = 50
    """Taken evenly from the evaluation's prompts."""
    num_samples: Annotated[int, Field(ge=2)] = 8
    """Images of each prompt."""
    bar: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """An image is good when it scores above this quantile of the base's images of the same prompt."""


class OnlineSection(Section):
    """Prompts and rewards of online recipes. Recipes name their rewards."""

    prompts: LocalPath
    """UTF-8 text, one prompt a line, none of them an evaluation prompt; local or s3://."""
    rewards: tuple[JudgeSection, ...] = ()
    """Scorers that only reward. A judge or guard may be named as well, and may then not judge what it trained."""


class UniformSoupSection(Section):
    """The runs of `[[train]]` become one candidate: the average of their weights."""

    method: Literal["uniform"]
    """Every run has the same weight."""


class GreedySoupSection(Section):
    """The runs of `[[train]]` become one candidate: the best of them, and each other that makes the average better."""

    method: Literal["greedy"]
    """Runs are added while the judge's mean improves."""
    judge: str
    """A scorer of the project, by name. It has then seen the candidate, and the gate does not let it vote."""
    judges: tuple[JudgeSection, ...] = ()
    """Scorers that only choose ingredients."""
    prompts: LocalPath
    """Tab separated file, header `prompt<TAB>category`, none of them an evaluation prompt; local or s3://."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds; each draws one image of every prompt."""
    sampler: Sampler | None = None
    """That of the evaluation unless given."""
    minimum_gain: Annotated[float, Field(ge=0)]
    """Least gain of the judge's mean by an ingredient, in the judge's units; set it above that mean's noise."""


class RewardSection(Section):
    """A reward model trained on the project's own pairs, and then a judge or a reward under `reward://NAME`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
    """Name of the reward model."""
    encoder: LocalPath
    """Folder of a CLIP that embeds images and prompts; it stays frozen and becomes a part of the judge."""
    recipe: RewardRecipe
    """Head, optimiser, batch, steps and seed; it is called as the reward is."""
    mixture: tuple[float, ...] = ()
    """Prototype weights of the judge; empty takes the mean over the users that were trained on."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs it learns from; empty: all. It may not judge a model that learnt from one of them."""
    trained_on: tuple[str, ...] = ()
    """Sources of human labels that the encoder was trained on; empty for one that only matches captions."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_recipe(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("recipe"), dict):
            return {**data, "recipe": {"name": data.get("name", ""), **data["recipe"]}}
        return data


class LabellingSection(Section):
    """Labels of training pairs by judges. Calibration and test pairs keep people's labels."""

    judges: tuple[str, ...] = ()
    """Names of scorers of the project; what one of them labelled it may not judge."""
    scorers: tuple[JudgeSection, ...] = ()
    """Scorers that only label."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs get new labels; empty: every source that is not drawn to order."""
    human_sources: tuple[str, ...] = ()
    """Of a label model: sources whose labels are human truth; empty: the same."""
    method: LabelMethod
    """Method that turns scores into labels."""

    @model_validator(mode="after")
    def _has_its_labelers(self) -> Self:
        check_labelers(self.method, len(self.judges))
        return self


class CaptionsSection(Section):
    """A separate text for each image of a pair, for recipes that train each image under its text (DCPO)."""

    variant: Variant
    """dcpo_c: captions of both images; dcpo_p: the prompt, and the prompt perturbed for the rejected image; dcpo_h:
    captions, and the rejected image's perturbed."""
    captioner: LocalPath | None = None
    """Image-to-text model of transformers' BLIP class: local folder, s3://... or hub://owner/name@sha. dcpo_p has
    none."""
    level: Level | None = None
    """Strength of the perturbation. dcpo_c has none."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the perturbation; captions have no randomness."""
    prefix: str = ""
    """Text that every caption starts with."""
    num_beams: Annotated[int, Field(gt=0)] = 1
    """Beams of the caption search."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 30
    """Longest caption, in tokens."""

    @model_validator(mode="after")
    def _states_what_its_variant_takes(self) -> Self:
        problems = []
        if (self.captioner is None) != (self.variant == "dcpo_p"):
            problems.append("takes no captioner" if self.captioner else 'takes captioner = "FOLDER"')
        if (self.level is None) != (self.variant == "dcpo_c"):
            problems.append("takes no level" if self.level else 'takes level = "weak", "medium" or "strong"')
        if problems:
            raise ValueError(f"variant {self.variant!r} {' and '.join(problems)}")
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
    """Jobs that average runs."""
    reward: Placement = Placement()
    """Jobs that train reward models."""
    evaluate: Placement = Placement()
    """Jobs that draw and score evaluation images."""


class ScheduleSection(Section):
    """Schedules and owner of the DAGs."""

    ingest: Schedule | None = None
    """Cron expression or preset of the ingest DAG; none: by hand."""
    train: Cron | None = None
    """Cron expression or preset at which the train DAG runs besides new pairs and the monitor's requests; none: only
    those. A run by the clock trains however few pairs are new."""
    reward: Schedule | None = None
    """Cron expression or preset of the reward DAG; none: whenever there are new pairs."""
    reconcile: Schedule | None = "@hourly"
    """Cron expression or preset of the reconcile DAG; none: by hand."""
    owner: str = "plumbline"
    """Owner of the DAGs in Airflow."""
