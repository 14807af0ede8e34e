"""Stages of training: plans of encodings, trainings and rewards, and the recipe search."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.training import Recipe
from alignment.contracts.values import canonical_json
from pipelines.stages.values import Json, read_project, to_json
from pipelines.workspace import open_workspace


def needs_captioned_snapshot(path: str, overrides: tuple[str, ...] = ()) -> bool:
    """Return True if a recipe trains on the captions of the project's [captions]."""
    return read_project(path, overrides).captions_wanted()


def _training_snapshot(path: str, snapshot: Json, recipe: int, overrides: tuple[str, ...] = ()) -> Json:
    """Return the snapshot that a recipe trains on. `recipe` is its position in the project file.

    This is `snapshot`, or the result of the caption stage if the recipe trains on captions. ValueError when that result
    does not exist yet.
    """
    from pipelines.dispatch import jobs
    from pipelines.dispatch.job_kinds import Caption

    workspace = open_workspace(path, overrides)
    project = workspace.project
    if not project.trains_on_captions(project.recipes()[recipe]):
        return snapshot
    request = Caption(snapshot=DatasetSnapshot.model_validate(snapshot)).request(workspace)
    captioned = jobs.fetch_answer(request, workspace.store)
    if captioned is None:
        raise ValueError(
            f"Snapshot {snapshot['uri']} has no captions by [captions] of {path} yet. Run `plumbline caption {path}`."
        )
    return captioned


def plan_rewards(path: str) -> list[Json]:
    """Return the `given` of a train_reward job for each reward: its position, and the snapshot of its sources."""
    from pipelines.intake import accepted
    from pipelines.intake import snapshot as snapshots

    workspace = open_workspace(path)
    plans = []
    for index, reward in enumerate(workspace.project.rewards):
        reports = accepted.accepted_reports(workspace, reward.sources)
        data = snapshots.build_snapshot(reports, workspace)
        plans.append({"snapshot": to_json(data), "reward": index})
    return plans


def plan(what: str, path: str, snapshot: Json, *results: Sequence[Json]) -> list[Json]:
    """Plan `encodings`, `references` or `trainings`, with the results of the jobs of the plans before."""
    plans: dict[str, Callable[..., list[Json]]] = {
        "encodings": plan_encodings,
        "references": plan_references,
        "trainings": plan_trainings,
    }
    return plans[what](path, snapshot, *results)


def plan_encodings(path: str, snapshot: Json, overrides: tuple[str, ...] = ()) -> list[Json]:
    """Return the `given` of the encode jobs: one for each distinct snapshot, backbone and cut.

    Empty when every recipe is online, as online recipes draw their images.
    """
    return list(_encodings(path, snapshot, overrides).values())


def plan_references(path: str, snapshot: Json, caches: Sequence[Json], overrides: tuple[str, ...] = ()) -> list[Json]:
    """Return the `given` of a job for each group of recipes that need the same errors of the base.

    Empty unless two recipes share them. `caches` as in `plan_trainings`.
    """
    project = read_project(path, overrides)
    recipes = project.recipes()
    trainings = plan_trainings(path, snapshot, caches, overrides=overrides)
    plans = []
    for positions in project.shared_references():
        visits = max(recipes[position].steps * recipes[position].global_batch for position in positions)
        first = positions[0]
        plans.append({"recipe": first, "cache": trainings[first]["cache"], "num_visits": visits})
    return plans


def plan_trainings(
    path: str,
    snapshot: Json,
    caches: Sequence[Json],
    references: Sequence[Json] = (),
    overrides: tuple[str, ...] = (),
) -> list[Json]:
    """Return the `given` of a train job for each recipe: its snapshot, its position and, unless online, its cache.

    `caches` and `references` are the results of the jobs of `plan_encodings` and `plan_references`, in their order.
    Without the latter every recipe computes the base's errors itself.
    """
    project, encodings = read_project(path, overrides), _encodings(path, snapshot, overrides)
    _check_results(caches, len(encodings), "encodings", task="encode")
    found = dict(zip(encodings, caches, strict=True))
    trainings = []
    for index, recipe in enumerate(project.recipes()):
        given: Json = {"snapshot": _training_snapshot(path, snapshot, index, overrides), "recipe": index}
        if not recipe.objective.online:
            given["cache"] = found[_encoding_key(given["snapshot"], recipe)]
        trainings.append(given)
    if references:
        groups = project.shared_references()
        _check_results(references, len(groups), "references", task="reference")
        for positions, reference in zip(groups, references, strict=True):
            for position in positions:
                trainings[position]["reference"] = reference
    return trainings


def _check_results(results: Sequence[Json], expected: int, what: str, *, task: str) -> None:
    """Raise ValueError when a planned job left no result."""
    if len(results) != expected:
        raise ValueError(
            f"{len(results)} of {expected} {what} left a result. A task {task!r} that was marked as success leaves"
            " none: clear it; the result of a finished job is found by digest."
        )


def _encodings(path: str, snapshot: Json, overrides: tuple[str, ...]) -> dict[str, Json]:
    """Return the `given` of each distinct encode job by its key, in the order of the recipes.

    If several recipes share a job, one that needs captions requests it, so that missing captions are reported first.
    """
    encodings: dict[str, Json] = {}
    for index, recipe in enumerate(read_project(path, overrides).recipes()):
        if not recipe.objective.online:
            data = _training_snapshot(path, snapshot, index, overrides)
            key = _encoding_key(data, recipe)
            if key not in encodings or recipe.objective.needs_captions:
                encodings[key] = {"snapshot": data, "recipe": index}
    return encodings


def _encoding_key(snapshot: Json, recipe: Recipe) -> str:
    """Return the key of a recipe's cache. Recipes with the same key share a cache."""
    science = (part.model_dump(mode="json") for part in (recipe.backbone, recipe.images))
    return canonical_json([snapshot["content_digest"], *science])


def check_search(path: str, *, gpu_memory_gib: float, hours: float, out: str | None) -> None:
    """Check a search before its pairs are ingested; ValueError for an invalid limit or setting."""
    from pipelines.search import recipe_search
    from pipelines.search.ranking import Limits

    limits = Limits(memory_gib=gpu_memory_gib, hours=hours)
    recipe_search.check(read_project(path), limits, Path(out) if out else None)


def search(path: str, snapshot: Json, *, gpu_memory_gib: float, hours: float, out: str | None) -> Json:
    """Try and rank recipes within the limits; return the winner's recipe file and the table of trials."""
    from pipelines.dispatch import jobs
    from pipelines.search import recipe_search
    from pipelines.search.ranking import Limits
    from pipelines.tracking import runs

    workspace = open_workspace(path)
    project, settings = workspace.project, workspace.settings
    run_key = f"{project.name}.search"
    found = recipe_search.search(
        workspace,
        snapshot=DatasetSnapshot.model_validate(snapshot),
        limits=Limits(memory_gib=gpu_memory_gib, hours=hours),
        out=Path(out) if out else None,
        run_job=partial(jobs.run_to_end, settings=settings, parent_key=run_key),
    )
    tags = runs.airflow_tags(settings, run_key)
    run_id = runs.parent_run(settings, project=project.name, key=run_key, tags=tags)
    runs.finish_run(settings, run_id, "FINISHED")
    return found
