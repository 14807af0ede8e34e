"""projects/NAME.toml to Project: the one file a user writes, typed and validated. Torch-free and airflow-free."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignment.backbones.catalogue import Backbone
from alignment.caption_contracts import Level, Variant
from alignment.config import load_recipe, read_toml, validate
from alignment.contracts import Placement, Recipe, Sampler, Share, check_sampler
from alignment.lookup import unknown_name
from alignment.rewards.catalogue import Reward
from alignment.soup_contracts import recipe_family
from pipelines.contracts import GatePolicy


class Section(BaseModel):
    """A table of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelSection(Section):
    """The model that is kept aligned."""

    uri: str
    """Local folder in the diffusers layout, `s3://...`, or `hub://owner/name@revision` (revision = commit sha)."""
    licence: str
    backbone: Backbone


class SourceSection(Section):
    """Where preference pairs come from."""

    name: str
    kind: str
    """A name of pipelines/intake/sources/catalogue.py."""
    uri: str
    """Folder or prefix of shards, local or s3://."""
    licence: str


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


class RecipeSection(Section):
    """One recipe to train, with overrides."""

    recipe: str
    overrides: tuple[str, ...] = ()


class JudgeSection(Section):
    """A judge or a guard."""

    name: str
    uri: str
    scorer: Reward
    trained_on: tuple[str, ...] = ()


class EvaluationSection(Section):
    """Prompts, seeds, sampler and judges of the gate."""

    prompts: str
    """Tab separated file, header `prompt<TAB>category`; held out of training by the snapshot stage."""
    seeds: tuple[int, ...]
    sampler: Sampler
    judges: Annotated[tuple[JudgeSection, ...], Field(min_length=1)]
    guards: tuple[JudgeSection, ...] = ()
    tie_thresholds: dict[str, float] = {}
    confidence: float = 0.95


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

    caption: Placement = Placement()
    encode: Placement = Placement()
    train: Placement = Placement()
    soup: Placement = Placement()
    evaluate: Placement = Placement()


class ScheduleSection(Section):
    """When things run by themselves."""

    ingest: str | None = None
    """Cron expression or preset of the ingest DAG; none: by hand."""
    owner: str = "plumbline"


class Project(Section):
    """Everything Plumbline knows about one model it keeps aligned."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
    base: BaseModelSection
    sources: Annotated[tuple[SourceSection, ...], Field(min_length=1)]
    validation: ValidationSection = ValidationSection()
    snapshot: SnapshotSection = SnapshotSection()
    train: Annotated[tuple[RecipeSection, ...], Field(min_length=1)]
    evaluation: EvaluationSection
    coverage: CoverageSection | None = None
    online: OnlineSection | None = None
    soup: Annotated[UniformSoupSection | GreedySoupSection, Field(discriminator="method")] | None = None
    captions: CaptionsSection | None = None
    gate: GatePolicy = GatePolicy()
    placement: PlacementSection = PlacementSection()
    schedule: ScheduleSection = ScheduleSection()
    path: Path
    """The file this came from."""

    def recipes(self) -> list[Recipe]:
        """The recipes of `train`, loaded and bound to the base's backbone."""
        bound = []
        for section in self.train:
            recipe = load_recipe(section.recipe, section.overrides)
            if recipe.backbone != self.base.backbone:
                raise ValueError(
                    f"{self.path}: recipe {recipe.name!r} is for {recipe.backbone!r}, but the base is"
                    f" {self.base.backbone!r}. Name a recipe of this backbone and resolution."
                )
            if recipe.objective.online:
                self.reward(recipe)
            bound.append(recipe)
        self._check_soup(bound)
        return bound

    def encodes(self) -> bool:
        """Whether any recipe trains on features; online recipes draw their own images."""
        return any(not recipe.objective.online for recipe in self.recipes())

    def caption_section(self) -> CaptionsSection:
        """[captions]; ValueError when the project has none."""
        if self.captions is None:
            raise ValueError(
                f'{self.path} has no [captions]. Add it with variant = "dcpo_c", "dcpo_p" or "dcpo_h", and the'
                " captioner and level that the variant takes; see docs/objectives.md."
            )
        return self.captions

    def captions_wanted(self) -> bool:
        """Whether any recipe trains on the snapshot that [captions] makes."""
        return any(self.trains_on_captions(recipe) for recipe in self.recipes())

    def trains_on_captions(self, recipe: Recipe) -> bool:
        """Whether a recipe takes the snapshot that [captions] makes: they are made, and its objective wants them."""
        return self.captions is not None and recipe.objective.needs_captions

    def reward(self, recipe: Recipe) -> JudgeSection:
        """The scorer that an online recipe names; ValueError when there is none of that name, or nothing online."""
        name = getattr(recipe.objective, "reward", "")
        if self.online is None:
            raise ValueError(
                f"{self.path}: recipe {recipe.name!r} draws its own images, for which the project names no prompts."
                ' Add [online] with prompts = "FILE", one prompt a line.'
            )
        return self.scorer(name, what="reward")

    def scorer(self, name: str, what: str = "judge") -> JudgeSection:
        """The judge, guard or reward of this name, wherever the project states it; ValueError when nowhere."""
        online = self.online.rewards if self.online else ()
        tasting = self.soup.judges if isinstance(self.soup, GreedySoupSection) else ()
        scorers = {s.name: s for s in (*self.evaluation.guards, *self.evaluation.judges, *online, *tasting)}
        if name not in scorers:
            raise ValueError(f"{self.path}: {unknown_name(what, name, scorers)}")
        return scorers[name]

    def _check_soup(self, recipes: Sequence[Recipe]) -> None:
        """ValueError when the recipes' weights could not be averaged, or nobody is there to choose them."""
        if self.soup is None:
            return
        if len(recipes) < 2:
            raise ValueError(f"{self.path}: [soup] averages two runs or more, but there is one [[train]]. Add another.")
        families = {recipe_family(recipe): recipe.name for recipe in recipes}
        if len(families) > 1:
            raise ValueError(
                f"{self.path}: [soup] averages runs of one recipe family, but {' and '.join(families.values())} differ"
                " in objective, backbone or tuning (adapters also in seed). Give each family a project of its own."
            )
        if isinstance(self.soup, GreedySoupSection):
            self.scorer(self.soup.judge)
            check_sampler(self.base.backbone, self.soup.sampler or self.evaluation.sampler)


def load_project(path: Path, overrides: tuple[str, ...] = ()) -> Project:
    """Read and validate a project file.

    Relative paths in it are taken from the file's folder. `overrides` are appended to the overrides of every recipe.
    Raises ValueError naming the file and every bad field.
    """
    if not path.is_file():
        raise ValueError(f"Project file {path} does not exist. Give the path of a projects/NAME.toml.")
    data: dict[str, Any] = {"path": path.absolute(), **read_toml(path)}
    project = validate(Project, data, what=str(path))
    if project.name != path.stem:
        raise ValueError(f"{path}: name is {project.name!r} but the file is {path.stem!r}. Make them equal.")
    sections = tuple(s.model_copy(update={"overrides": (*s.overrides, *overrides)}) for s in project.train)
    project = _absolute(project.model_copy(update={"train": sections}))
    project.recipes()
    check_sampler(project.base.backbone, project.evaluation.sampler)
    if project.coverage is not None:
        project.scorer(project.coverage.judge)
    return project


def list_projects(projects_dir: Path) -> list[Path]:
    """Every project file of a folder, sorted."""
    return sorted(projects_dir.glob("*.toml"))


def _absolute(project: Project) -> Project:
    """The project with every local path made absolute against its file's folder."""
    root = project.path.parent

    def resolve(uri: str) -> str:
        return uri if "://" in uri else str((root / uri).resolve())

    evaluation, online = project.evaluation, project.online
    soup, captions = project.soup, project.captions
    if isinstance(soup, GreedySoupSection):
        tasting = tuple(j.model_copy(update={"uri": resolve(j.uri)}) for j in soup.judges)
        soup = soup.model_copy(update={"prompts": resolve(soup.prompts), "judges": tasting})
    if captions is not None and captions.captioner is not None:
        captions = captions.model_copy(update={"captioner": resolve(captions.captioner)})
    if online is not None:
        rewards = tuple(r.model_copy(update={"uri": resolve(r.uri)}) for r in online.rewards)
        online = online.model_copy(update={"prompts": resolve(online.prompts), "rewards": rewards})
    return project.model_copy(
        update={
            "base": project.base.model_copy(update={"uri": resolve(project.base.uri)}),
            "sources": tuple(s.model_copy(update={"uri": resolve(s.uri)}) for s in project.sources),
            "train": tuple(
                s.model_copy(update={"recipe": resolve(s.recipe) if s.recipe.endswith(".toml") else s.recipe})
                for s in project.train
            ),
            "online": online,
            "soup": soup,
            "captions": captions,
            "evaluation": evaluation.model_copy(
                update={
                    "prompts": resolve(evaluation.prompts),
                    "judges": tuple(j.model_copy(update={"uri": resolve(j.uri)}) for j in evaluation.judges),
                    "guards": tuple(g.model_copy(update={"uri": resolve(g.uri)}) for g in evaluation.guards),
                }
            ),
        }
    )
