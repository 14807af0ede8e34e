"""The tables of projects/NAME.toml, one class each. Torch-free and airflow-free."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.rewards import Reward
from alignment.contracts.captions import Level, Variant
from alignment.contracts.evaluation import Sampler
from alignment.contracts.jobs import Placement
from alignment.contracts.labelling import PROMPT_FIELD, LabelMethod, check_labelers, check_templates
from alignment.contracts.reward_models import RewardRecipe
from alignment.contracts.values import Share
from pipelines.project.schedules import Cron, Schedule

REWARD_SCHEME = "reward://"
"""Before the name of a reward model that the project trains itself."""
SELF_GENERATED = "self_generated"
"""Kind of the sources that the base model draws itself."""


class Section(BaseModel):
    """A table of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelSection(Section):
    """The model that is kept aligned."""

    uri: str
    """Local folder in the diffusers layout, `s3://...`, or `hub://owner/name@revision` (revision = commit sha)."""
    licence: str
    backbone: Backbone


class DrawSection(Section):
    """Pairs that the base model draws itself: the chosen image with words added, the rejected one without."""

    prompts: str
    """UTF-8 text, one prompt a line, none of them an evaluation prompt; local or s3://."""
    chosen_template: str
    """Prompt of the chosen image, e.g. `{prompt}, in pixel art style`."""
    rejected_template: str = PROMPT_FIELD
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sampler: Sampler

    @model_validator(mode="after")
    def _templates_fit(self) -> Self:
        check_templates(self.chosen_template, self.rejected_template)
        return self


class SourceSection(Section):
    """Where preference pairs come from."""

    name: str
    kind: str
    """A name of pipelines/intake/sources/catalogue.py."""
    uri: str = ""
    """Folder or prefix of shards, local or s3://; a self_generated source has none."""
    licence: str
    draw: DrawSection | None = None
    """What a self_generated source is drawn from."""

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
    max_image_pixels: int = 50_000_000
    max_image_side: int = 16_384
    min_image_side: int = 32
    max_prompt_chars: int = 2_000
    allowed_formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")
    max_annotator_share: Share = 0.5
    """An annotator who labelled more of a batch than this is flagged."""


class SnapshotSection(Section):
    """How accepted pairs are split; by prompt group, so that no prompt is in two splits."""

    calibration_share: Share = 0.15
    test_share: Share = 0.1
    seed: int = 0
    minimum_new_pairs: Annotated[int, Field(ge=0)] = 0
    """Training waits until this many pairs are new since the last candidate."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs train the model; empty: all. Those left out may train an independent judge."""


class RecipeSection(Section):
    """One recipe to train, with overrides."""

    recipe: str
    overrides: tuple[str, ...] = ()


class JudgeSection(Section):
    """A judge or a guard."""

    name: str
    uri: str = ""
    """Folder of its weights; none for a scorer that has no weights."""
    scorer: Reward
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
    prompts: str
    """Tab separated file, header `prompt<TAB>category`, as `plumbline prompts import` writes it; local or s3://."""


class EvaluationSection(Section):
    """Prompts, seeds, sampler and judges of the gate."""

    prompts: str
    """Name of a prompt set, or a tab separated file, header `prompt<TAB>category`; held out of training by the snapshot
    stage."""
    seeds: tuple[int, ...]
    sampler: Sampler
    judges: Annotated[tuple[JudgeSection, ...], Field(min_length=1)]
    guards: tuple[JudgeSection, ...] = ()
    tie_thresholds: dict[str, float] = {}
    confidence: float = 0.95

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
    """What online recipes train on; their rewards are scorers of the project, found by name."""

    prompts: str
    """UTF-8 text, one prompt a line, none of them an evaluation prompt; local or s3://."""
    rewards: tuple[JudgeSection, ...] = ()
    """Scorers that only reward. A judge or guard may be named as well, and may then not judge what it trained."""


class UniformSoupSection(Section):
    """The runs of `[[train]]` become one candidate: the average of their weights."""

    method: Literal["uniform"]


class GreedySoupSection(Section):
    """The runs of `[[train]]` become one candidate: the best of them, and each other that makes the average better."""

    method: Literal["greedy"]
    judge: str
    """A scorer of the project, by name. It has then seen the candidate, and the gate does not let it vote."""
    judges: tuple[JudgeSection, ...] = ()
    """Scorers that only choose ingredients."""
    prompts: str
    """Tab separated file, header `prompt<TAB>category`, none of them an evaluation prompt; local or s3://."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    sampler: Sampler | None = None
    """That of the evaluation unless given."""
    minimum_gain: Annotated[float, Field(ge=0)]
    """What an ingredient must add to the judge's mean, in the judge's units; set it above that mean's noise."""


class RewardSection(Section):
    """A reward model trained on the project's own pairs, and then a judge or a reward under `reward://NAME`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
    encoder: str
    """Folder of a CLIP that embeds images and prompts; it stays frozen and becomes a part of the judge."""
    recipe: RewardRecipe
    """Head, optimiser, batch, steps and seed; it is called as the reward is."""
    mixture: tuple[float, ...] = ()
    """Prototype weights of the judge; empty takes the mean over the users that were trained on."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs it learns from; empty: all. It may not judge a model that learnt from one of them."""
    trained_on: tuple[str, ...] = ()
    """What the encoder learnt people's verdicts from; empty for one that only matches captions."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_recipe(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("recipe"), dict):
            return {**data, "recipe": {"name": data.get("name", ""), **data["recipe"]}}
        return data


class LabellingSection(Section):
    """Who labels training pairs in the place of people. Calibration and test pairs keep people's labels."""

    judges: tuple[str, ...] = ()
    """Names of scorers of the project; what one of them labelled it may not judge."""
    scorers: tuple[JudgeSection, ...] = ()
    """Scorers that only label."""
    sources: tuple[str, ...] = ()
    """Sources whose pairs get new labels; empty: every source that is not drawn to order."""
    human_sources: tuple[str, ...] = ()
    """Of a label model: sources whose labels are human truth; empty: the same."""
    method: LabelMethod

    @model_validator(mode="after")
    def _has_its_labelers(self) -> Self:
        check_labelers(self.method, len(self.judges))
        return self


class CaptionsSection(Section):
    """Texts of their own for the images of a pair, for recipes that train each image under its own (DCPO)."""

    variant: Variant
    """dcpo_c: captions of both images; dcpo_p: the prompt, and the prompt perturbed for the rejected image; dcpo_h:
    captions, and the rejected image's perturbed."""
    captioner: str | None = None
    """Image-to-text model of transformers' BLIP class: local folder, s3://... or hub://owner/name@sha. dcpo_p has
    none."""
    level: Level | None = None
    """How far a text is perturbed: weak, medium or strong. dcpo_c has none."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the perturbation; captions have no randomness."""
    prefix: str = ""
    num_beams: Annotated[int, Field(gt=0)] = 1
    max_new_tokens: Annotated[int, Field(gt=0)] = 30

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
    label: Placement = Placement()
    caption: Placement = Placement()
    encode: Placement = Placement()
    train: Placement = Placement()
    soup: Placement = Placement()
    reward: Placement = Placement()
    evaluate: Placement = Placement()


class ScheduleSection(Section):
    """When things run by themselves."""

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
