"""Read and validate projects/NAME.toml, the one file that a user writes. Torch-free and airflow-free."""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from alignment.catalogues.lookup import unknown_name
from alignment.config import load_recipe, read_toml, validate
from alignment.contracts.data import Encoding
from alignment.contracts.evaluation import check_sampler
from alignment.contracts.jobs import DevicePrices
from alignment.contracts.labelling import LabelModel
from alignment.contracts.reference_errors import sharing
from alignment.contracts.soup import recipe_family
from alignment.contracts.training import Recipe, check_adaptive, check_sharding
from pipelines.project.approval import ApprovalSection, NotifySection, ReconcileSection
from pipelines.project.captions import CaptionsSection
from pipelines.project.consistency import check_measures
from pipelines.project.gate import GatePolicy
from pipelines.project.monitor import MonitorSection
from pipelines.project.search import SearchSection
from pipelines.project.sections import (
    REWARD_SCHEME,
    BaseModelSection,
    CoverageSection,
    EvaluationSection,
    GreedySoupSection,
    JudgeSection,
    LabellingSection,
    OnlineSection,
    PlacementSection,
    PromptSetSection,
    RecipeSection,
    RewardSection,
    ScheduleSection,
    Section,
    SnapshotSection,
    SourceSection,
    UniformSoupSection,
    ValidationSection,
)

PROJECT_NAME = r"^[a-z][a-z0-9_]{0,40}$"
TASK_NAME = r"[A-Za-z0-9_.-]{1,200}"
"""Pattern of the task ids that Airflow allows."""


class Project(Section):
    """The configuration of one model that Plumbline keeps aligned."""

    name: Annotated[str, Field(pattern=PROJECT_NAME)]
    """Name of the project, its DAGs and its registered model; equal to the name of the file without .toml."""
    base: BaseModelSection
    """The base model."""
    sources: Annotated[tuple[SourceSection, ...], Field(min_length=1)]
    """Sources of preference pairs."""
    validation: ValidationSection = ValidationSection()
    """Limits of the data rules."""
    snapshot: SnapshotSection = SnapshotSection()
    """Splits of the accepted pairs."""
    features: Encoding = Encoding()
    """Number formats and layout of the feature caches."""
    train: Annotated[tuple[RecipeSection, ...], Field(min_length=1)]
    """Recipes to train."""
    evaluation: EvaluationSection
    """Prompts, seeds, sampler and judges."""
    prompt_sets: tuple[PromptSetSection, ...] = ()
    """Named prompt files, held out of training."""
    coverage: CoverageSection | None = None
    """Best-of-N curve of the report; without this table it is not measured."""
    online: OnlineSection | None = None
    """Prompts and rewards of online recipes, which need this table."""
    rewards: tuple[RewardSection, ...] = ()
    """Reward models that the project trains."""
    soup: Annotated[UniformSoupSection | GreedySoupSection, Field(discriminator="method")] | None = None
    """Average of the runs; without this table each run is a candidate."""
    labelling: LabellingSection | None = None
    """Labels by judges; without this table human labels are used."""
    captions: CaptionsSection | None = None
    """Captions for recipes that need them."""
    gate: GatePolicy = GatePolicy()
    """Policy of the gate."""
    monitor: MonitorSection = MonitorSection()
    """Schedule and limits of the monitor."""
    approval: ApprovalSection = ApprovalSection()
    """Approval by a person."""
    reconcile: ReconcileSection = ReconcileSection()
    """Reaction to a champion alias that differs from the ledger."""
    notify: NotifySection = NotifySection()
    """Notifications: recipients and events."""
    placement: PlacementSection = PlacementSection()
    """Processes, batch sizes and limits of each kind of job."""
    prices: DevicePrices | None = None
    """Prices of device-hours; without this table, time is reported and no cost."""
    schedule: ScheduleSection = ScheduleSection()
    """Schedules of the DAGs."""
    search: SearchSection = SearchSection()
    """Recipe search."""
    path: Path
    """Path of the project file."""

    @model_validator(mode="before")
    @classmethod
    def _put_the_file_of_a_prompt_set(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Replace the name of a prompt set in `evaluation.prompts` by the file of that set."""
        evaluation, sets = data.get("evaluation"), data.get("prompt_sets")
        if not isinstance(evaluation, dict) or not isinstance(sets, list):
            return data
        named = [own for own in sets if isinstance(own, dict) and own.get("name") == evaluation.get("prompts")]
        if not named or not isinstance(named[0].get("prompts"), str):
            return data
        return {**data, "evaluation": {**evaluation, "prompts": named[0]["prompts"]}}

    def recipes(self) -> list[Recipe]:
        """Load the recipes of `train`; ValueError when one does not fit the base model, the rewards or the soup."""
        bound = []
        for section in self.train:
            recipe = load_recipe(section.recipe, section.overrides)
            if recipe.backbone != self.base.backbone:
                raise ValueError(
                    f"{self.path}: recipe {recipe.name!r} is for {recipe.backbone!r}, but the base model is"
                    f" {self.base.backbone!r}. Choose a recipe for this backbone and resolution."
                )
            if recipe.objective.online:
                self.reward(recipe)
            try:
                check_sharding(recipe, self.placement.train)
                check_adaptive(recipe, self.placement.train)
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from error
            bound.append(recipe)
        self._check_soup(bound)
        return bound

    def encodes(self) -> bool:
        """Return True if any recipe trains on encoded features. Online recipes draw their images instead."""
        return any(not recipe.objective.online for recipe in self.recipes())

    def shared_references(self) -> list[list[int]]:
        """Return groups of recipes, by position, that need the same errors of the base, which are computed once.

        Sharded weights are gathered by all processes together, so there every recipe computes them.
        """
        return sharing(self.recipes()) if self.placement.train.sharding == "none" else []

    def caption_section(self) -> CaptionsSection:
        """Return the table [captions]; ValueError when the project has none."""
        if self.captions is None:
            raise ValueError(
                f'{self.path} has no [captions]. Add it with variant = "dcpo_c", "dcpo_p" or "dcpo_h", and the'
                " captioner and level that the variant needs; see docs/objectives.md."
            )
        return self.captions

    def captions_wanted(self) -> bool:
        """Return True if any recipe trains on the captioned snapshot."""
        return any(self.trains_on_captions(recipe) for recipe in self.recipes())

    def trains_on_captions(self, recipe: Recipe) -> bool:
        """Return True if the project has [captions] and the recipe's objective needs captions."""
        return self.captions is not None and recipe.objective.needs_captions

    def reward(self, recipe: Recipe) -> JudgeSection:
        """Return the scorer that an online recipe names; ValueError when it does not exist or [online] is missing."""
        name = getattr(recipe.objective, "reward", "")
        if self.online is None:
            raise ValueError(
                f"{self.path}: recipe {recipe.name!r} is online and needs prompts to draw images. Add [online] with"
                ' prompts = "FILE", one prompt a line.'
            )
        return self.scorer(name, what="reward")

    def scorer(self, name: str, what: str = "judge") -> JudgeSection:
        """Return the judge, guard or reward of this name, from any table of the project, to score single images.

        ValueError when there is none of this name, or it scores the images of a prompt together.
        """
        scorers = {scorer.name: scorer for scorer in self._scorers()}
        if name not in scorers:
            raise ValueError(f"{self.path}: {unknown_name(what, name, scorers)}")
        if scorers[name].scorer.per_prompt:
            raise ValueError(
                f"{self.path}: {name!r} scores the images of a prompt together, so it can only be a guard. Choose"
                f" another {what}."
            )
        return scorers[name]

    def check_rewards(self) -> None:
        """Check that every named source and reward exists and is of the right kind; ValueError otherwise."""
        sources = {source.name for source in self.sources}
        for name in (*self.snapshot.sources, *(name for reward in self.rewards for name in reward.sources)):
            if name not in sources:
                raise ValueError(f"{self.path}: {unknown_name('source', name, sources)}")
        rewards = {reward.name for reward in self.rewards}
        for section in self._scorers():
            if section.uri.startswith(REWARD_SCHEME):
                name = section.uri.removeprefix(REWARD_SCHEME)
                if name not in rewards:
                    raise ValueError(f"{self.path}: {unknown_name('reward', name, rewards)}")
                if section.scorer.kind != "pal":
                    raise ValueError(
                        f"{self.path}: {section.name!r} has the uri {section.uri}, whose scorer is of kind 'pal', but"
                        f' its scorer is of kind {section.scorer.kind!r}. Write scorer = {{ kind = "pal" }}.'
                    )

    def check_drawn_sources(self) -> None:
        """Check the names of self_generated sources; ValueError for one used twice or not allowed in a task id."""
        names = [source.name for source in self.sources]
        for name in (source.name for source in self.sources if source.draw is not None):
            if not re.fullmatch(TASK_NAME, name):
                raise ValueError(
                    f"{self.path}: sources: {name!r} is not a valid task id in Airflow. Use 1 to 200 letters, digits,"
                    " dots, dashes and underscores."
                )
            if names.count(name) > 1:
                raise ValueError(f"{self.path}: sources: two are named {name!r}. Rename one.")

    def check_prompt_sets(self) -> None:
        """Check that the names of prompt sets differ; ValueError otherwise."""
        names = [own.name for own in self.prompt_sets]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"{self.path}: two [[prompt_sets]] are named {', '.join(doubled)}. Rename one.")

    def _scorers(self) -> tuple[JudgeSection, ...]:
        """Return every scorer of the project."""
        online = self.online.rewards if self.online else ()
        tasting = self.soup.judges if isinstance(self.soup, GreedySoupSection) else ()
        labelling = self.labelling.scorers if self.labelling else ()
        return (*self.evaluation.guards, *self.evaluation.judges, *online, *tasting, *labelling)

    def sources_behind(self, training_sources: Iterable[str]) -> set[str]:
        """Return the project's sources whose pairs, or others of the same public data set, are among those sources."""
        named = set(training_sources)
        named |= {data_set for source in self.sources if source.name in named for data_set in source.data_sets}
        return {source.name for source in self.sources if named & {source.name, *source.data_sets}}

    def labellers(self) -> tuple[JudgeSection, ...]:
        """Return the scorers in `labelling.judges`, in order; ValueError for an unknown name."""
        return tuple(self.scorer(name) for name in self.labelling.judges) if self.labelling else ()

    def labelled_sources(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the sources to relabel and the sources of human ground truth; ValueError for an unknown name."""
        section = self.labelling
        people = tuple(source.name for source in self.sources if source.draw is None)
        if section is None:
            return (), ()
        for name in (*section.sources, *section.human_sources):
            if name not in people:
                raise ValueError(f"{self.path}: labelling: {unknown_name('source of labels', name, people)}")
        relabelled = section.sources or people
        human = section.human_sources or people
        return relabelled, human if isinstance(section.method, LabelModel) else ()

    def _check_soup(self, recipes: Sequence[Recipe]) -> None:
        """Check that the recipes' weights can be averaged and the soup's judge exists; ValueError otherwise."""
        if self.soup is None:
            return
        if len(recipes) < 2:
            raise ValueError(f"{self.path}: [soup] averages two or more runs, but there is one [[train]]. Add another.")
        families = {recipe_family(recipe): recipe.name for recipe in recipes}
        if len(families) > 1:
            raise ValueError(
                f"{self.path}: [soup] averages runs of one recipe family, but {' and '.join(families.values())} differ"
                " in objective, backbone or tuning (adapters also in seed). Use a separate project for each family."
            )
        if isinstance(self.soup, GreedySoupSection):
            self.scorer(self.soup.judge)
            check_sampler(self.base.backbone, self.soup.sampler or self.evaluation.sampler)


def load_project(path: Path, overrides: tuple[str, ...] = ()) -> Project:
    """Read and validate a project file.

    Relative paths are resolved against the file's folder. `overrides` are appended to the overrides of every recipe.
    A file may begin with `extends = ["FILE", ...]`. These files are read first, in order; each one, and then the file
    itself, overrides those before it. Tables are merged; other values, lists included, are replaced. Relative paths are
    then resolved against the folder of the first file. ValueError names the file and every bad field.
    """
    data, root = _read_layers(path)
    project = validate(Project, {"path": path.absolute(), **data}, what=str(path), context={"root": root})
    if project.name != path.stem:
        raise ValueError(f"{path}: name is {project.name!r} but the file is {path.stem!r}. Make them equal.")
    sections = tuple(s.model_copy(update={"overrides": (*s.overrides, *overrides)}) for s in project.train)
    project = project.model_copy(update={"train": sections})
    check_measures(project.evaluation, project.gate, str(path), approval=project.approval)
    project.recipes()
    project.check_rewards()
    project.check_prompt_sets()
    project.check_drawn_sources()
    project.labellers()
    project.labelled_sources()
    check_sampler(project.base.backbone, project.evaluation.sampler)
    if project.coverage is not None:
        project.scorer(project.coverage.judge)
    return project


def _list_projects(projects_dir: Path) -> list[Path]:
    """List the project files of a folder, sorted."""
    return sorted(projects_dir.glob("*.toml"))


def find_project(name: str, projects_dir: Path, also: Sequence[str] = ()) -> Path:
    """Return the file of a project by its name; ValueError lists the known ones, the nearest first.

    `also` are other names that may have been meant, such as sub-commands; they are only suggested.
    """
    path = projects_dir / f"{name}.toml"
    if path.is_file():
        return path
    known = [file.stem for file in _list_projects(projects_dir)]
    nearest = get_close_matches(name, [*also, *known], n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    by_nearness = sorted(known, key=lambda other: (-SequenceMatcher(None, name, other).ratio(), other))
    found = f"has {', '.join(by_nearness)}" if known else "has no project file"
    raise ValueError(
        f"Unknown project {name!r}.{hint} {projects_dir} {found}. Give one of its names, or a file's path."
    )


def load_projects(projects_dir: Path) -> tuple[list[Project], list[str]]:
    """Load each project file of a folder separately.

    Returns the projects that could be loaded, and for each other file one message that names the file and its fields.
    """
    projects, problems = [], []
    for path in _list_projects(projects_dir):
        try:
            projects.append(load_project(path))
        except ValueError as error:
            problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
        except Exception as error:  # No fault in one file may stop the other projects.
            problems.append(f"{path}: {type(error).__name__}: {error}")
    return projects, problems


def _read_layers(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Path]:
    """Return the contents of a file merged over those it extends, and the folder to resolve relative paths against."""
    if not path.is_file():
        raise ValueError(f"Project file {path} does not exist. Give the path of a projects/NAME.toml.")
    own = read_toml(path)
    extended = own.pop("extends", [])
    if not isinstance(extended, list) or not all(isinstance(name, str) for name in extended):
        raise ValueError(f'{path}: extends is {extended!r}. Give a list of files, e.g. ["shapes.toml"].')
    data, root = dict[str, Any](), path.absolute().parent
    for index, name in enumerate(extended):
        below = path.absolute().parent / name
        if below.resolve() in (opened := (*above, path.resolve())):
            raise ValueError(f"{path} extends itself, directly or through other files. Remove {name!r} from extends.")
        layer, folder = _read_layers(below, opened)
        data, root = _over(layer, data), root if index else folder
    return _over(own, data), root


def _over(top: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Merge tables field by field; any other value of `top` replaces the one in `below`."""
    joined = dict(below)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(joined.get(key), dict)
        joined[key] = _over(value, joined[key]) if both else value
    return joined
