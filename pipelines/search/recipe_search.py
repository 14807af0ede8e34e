"""`plumbline search`: try recipes within the user's limits on the engine, rank them, and write the winner to a file."""

import fcntl
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.judges import Judge
from alignment.contracts.training import Recipe
from alignment.contracts.values import canonical_json
from pipelines.dispatch.model_folders import local_folder
from pipelines.dispatch.requests.inputs import base_input
from pipelines.dispatch.requests.judges import judge_of
from pipelines.dispatch.sizing.memory import Denoiser
from pipelines.dispatch.sizing.weights import base_weights
from pipelines.project.file import Project
from pipelines.search import winner
from pipelines.search.ranking import Limits, Placing, TrialReport, explain_nothing_fits, rank
from pipelines.search.space import Space, Start
from pipelines.search.study import open_study, run_study, spent_seconds
from pipelines.search.trials import RunJob, TrialBench
from pipelines.search.validation import for_validation, validation_judge, vote_note
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

SEARCH_VERSION = 2
"""Raised when the same inputs would now lead to other trials or other figures."""
FOLDER = "searches"


class _NothingFitsError(RuntimeError):
    """No trial lies within the limits; the message states how many trials each limit excluded."""


def _check_limits(limits: Limits) -> None:
    """Raise ValueError naming every limit that is not a number above 0."""
    named = {"--gpu-memory": limits.memory_gib, "--hours": limits.hours}
    bad = [f"{name} is {value:g}" for name, value in named.items() if not (math.isfinite(value) and value > 0)]
    if bad:
        raise ValueError(f"{' and '.join(bad)}. Give a number above 0: GiB of one GPU, and hours of wall clock.")


def check(project: Project, limits: Limits, out: Path | None) -> None:
    """Raise ValueError for invalid limits, recipes, factors, judge or `out`; reads only the project."""
    _check_limits(limits)
    winner.check_path(out or winner.default_path(project))
    _space_of(project)
    validation_judge(project)


def _space_of(project: Project) -> Space:
    """Return the search space of the project; ValueError when a recipe or a factor does not belong in it."""
    section = project.search
    named = [Start(recipe=recipe) for recipe in section.recipes]
    starts = named or [Start(recipe=one.recipe, overrides=one.overrides) for one in project.train]
    space = Space(
        section=section,
        starts=dict(zip(_labels(starts), starts, strict=True)),
        placement=project.placement.train,
    )
    for start in starts:
        recipe = start.load()
        if recipe.backbone != project.base.backbone:
            raise ValueError(
                f"{project.path}: search recipe {recipe.name!r} is for {recipe.backbone!r}, but the base is"
                f" {project.base.backbone!r}. Name a recipe of this backbone and resolution."
            )
    space.check()
    return space


def search(
    workspace: Workspace, *, snapshot: DatasetSnapshot, limits: Limits, out: Path | None, run_job: RunJob
) -> dict[str, Any]:
    """Run the trials, rank them, write the winner. Return a table of the trials and the winner's file.

    Raises ValueError for invalid limits, recipes, judge, prompts or `out`, before anything runs; NothingFitsError when
    no trial lies within the limits.
    """
    project, settings = workspace.project, workspace.settings
    path = out or winner.default_path(project)
    check(project, limits, path)
    space, section = _space_of(project), validation_judge(project)
    judge = judge_of(workspace, section)
    _check_rewards(workspace, space, judge)
    validated = for_validation(workspace, snapshot, section)
    digest = _study_digest(Workspace(validated, settings), space, snapshot=snapshot, limits=limits, judge=judge)
    bench = TrialBench(
        project=validated,
        settings=settings,
        snapshot=snapshot,
        limits=limits,
        denoiser=Denoiser(base_weights(local_folder(project.base.uri, settings)), ()),
        run_job=run_job,
        shared_visits=space.most_visits() if space.section.trials > 1 else 0,
    )
    with _only_one(settings.state_dir / FOLDER / digest) as folder:
        study = open_study(folder, digest)
        trials = run_study(study, space, bench.measure, limits=limits)
    placings = _place(bench, trials, limits)
    best = placings[0].trial
    recipe = winner.chosen(_proposed(space, trials[best]), judge)
    header = winner.header(project, recipe, trials[best], number=best, trials=len(trials), judge=judge.name)
    winner.write_winner(path, recipe, header)
    return {
        "project": project.name,
        "study": digest,
        "limits": limits.model_dump(mode="json"),
        "judge": judge.name,
        "prompts": validated.evaluation.prompts,
        "seconds": round(spent_seconds(trials), 1),
        "winner": {"trial": best, "recipe": str(path), "micro_batch": trials[best].micro_batch},
        "ranking": [placing.model_dump(mode="json") for placing in placings],
        "trials": [{"trial": number, **report.model_dump(mode="json")} for number, report in trials.items()],
        "notes": [note for note in (vote_note(project, section), _noise_note(trials[best])) if note],
    }


def _place(bench: TrialBench, trials: Mapping[int, TrialReport], limits: Limits) -> list[Placing]:
    """Rank the trials within the limits, best first; NothingFitsError when there is none.

    A complete run that fitted when its trial ended may no longer fit, since later trials used time as well.
    """
    left = limits.hours - spent_seconds(trials) / 3600
    fitting = {n: t for n, t in trials.items() if t.outcome == "measured" and (t.final_run_hours or 0.0) <= left}
    if not fitting:
        late = {"outcome": "over_time"}
        shown = [t.model_copy(update=late) if t.outcome == "measured" else t for t in trials.values()]
        raise _NothingFitsError(explain_nothing_fits(shown, limits))
    scores = {number: bench.prompt_scores(trial) for number, trial in fitting.items()}
    return rank(fitting, scores, confidence=bench.project.evaluation.confidence)


def _proposed(space: Space, report: TrialReport) -> Recipe:
    """Return the complete recipe of a trial."""
    return space.starts[report.recipe].load(report.changes)


def _study_digest(
    workspace: Workspace, space: Space, *, snapshot: DatasetSnapshot, limits: Limits, judge: Judge
) -> str:
    """Return the identity of a search: everything that its trials and figures depend on but the number of trials."""
    project = workspace.project
    identity = {
        "version": SEARCH_VERSION,
        "section": space.section.model_dump(mode="json", exclude={"trials"}),
        "recipes": {label: start.load().digest for label, start in space.starts.items()},
        "base": base_input(workspace).content_digest,
        "snapshot": snapshot.content_digest,
        "judge": judge.model_dump(mode="json"),
        "prompts": project.evaluation.prompts,
        "sampler": project.evaluation.sampler.model_dump(mode="json"),
        "placement": project.placement.model_dump(mode="json"),
        "limits": limits.model_dump(mode="json"),
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


@contextmanager
def _only_one(folder: Path) -> Iterator[Path]:
    """Hold the lock on a search's folder; RuntimeError when another process on this host has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"The same search is already running, see {folder}. Wait for it, or stop it.") from error
        yield folder


def _labels(starts: list[Start]) -> list[str]:
    """Name each starting recipe: its own name, numbered where two share it."""
    names = [Path(start.recipe).stem for start in starts]
    return [name if names.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(names, start=1)]


def _check_rewards(workspace: Workspace, space: Space, judge: Judge) -> None:
    """Raise ValueError when a recipe maximises the judge that would rank it."""
    for start in space.starts.values():
        recipe = start.load()
        if not recipe.objective.online:
            continue
        reward = judge_of(workspace, workspace.project.reward(recipe))
        if set(reward.training_sources) & set(judge.training_sources):
            raise ValueError(
                f"Recipe {recipe.name!r} maximises {reward.name!r}, so that scorer cannot be the search's judge."
                " Name another scorer as search.judge."
            )


def _noise_note(report: TrialReport) -> str:
    c = report.against_base
    if c is None or c.mean_difference_low > 0:
        return ""
    return (
        f"The winner's gain over the base is within the noise ({c.mean_difference_low:+.4f} to"
        f" {c.mean_difference_high:+.4f}). Use more trial_steps, prompts or seeds."
    )
