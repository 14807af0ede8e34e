"""Stages that plan training: encodings, trainings, rewards, the recipe search."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.training import Recipe
from alignment.contracts.values import canonical_json
from pipelines.stages.values import Json, read_project, to_json
from pipelines.workspace import open_workspace


def needs_captioned_snapshot(path: str, overrides: tuple[str, ...] = ()) -> bool:
    """Whether a recipe trains on captions that the project's [captions] makes."""
    return read_project(path, overrides).captions_wanted()


def training_snapshot(path: str, snapshot: Json, recipe: int, overrides: tuple[str, ...] = ()) -> Json:
    """The snapshot that a recipe (by its position in the project file) trains on.

    The accepted pairs as they are or, where the recipe trains on captions and the project makes them, the answer of the
    caption stage, which has to be there.
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
            f"Snapshot {snapshot['uri']} has no captions by [captions] of {path} yet. Run plumbline caption {path}."
        )
    return captioned


def plan_rewards(path: str) -> list[Json]:
    """One `given` of a train_reward job per reward: its position, and the snapshot of its sources."""
    from pipelines.intake import snapshot as snapshots

    workspace = open_workspace(path)
    plans = []
    for index, reward in enumerate(workspace.project.rewards):
        reports = snapshots.accepted_reports(workspace, reward.sources)
        data = snapshots.build_snapshot(reports, workspace)
        plans.append({"snapshot": to_json(data), "reward": index})
    return plans


def plan_encodings(path: str, snapshot: Json, overrides: tuple[str, ...] = ()) -> list[Json]:
    """What is to be encoded, as `given` of encode jobs: each distinct snapshot, backbone and cut once.

    Empty when every recipe is online: those draw their own images.
    """
    return list(_encodings(path, snapshot, overrides).values())


def plan_trainings(path: str, snapshot: Json, caches: Sequence[Json], overrides: tuple[str, ...] = ()) -> list[Json]:
    """One `given` of a train job per recipe: its snapshot, its position and, unless it is online, its cache.

    `caches` are the answers to `plan_encodings`, in its order.
    """
    encodings = _encodings(path, snapshot, overrides)
    found = dict(zip(encodings, caches, strict=True))
    trainings = []
    for index, recipe in enumerate(read_project(path, overrides).recipes()):
        given: Json = {"snapshot": training_snapshot(path, snapshot, index, overrides), "recipe": index}
        if not recipe.objective.online:
            given["cache"] = found[_encoding_key(given["snapshot"], recipe)]
        trainings.append(given)
    return trainings


def _encodings(path: str, snapshot: Json, overrides: tuple[str, ...]) -> dict[str, Json]:
    """`given` of each distinct encode job by what makes it distinct, in the order of the recipes.

    Where several recipes share a job it is asked for by one that reads the images' own captions, so that their absence
    is told before the work.
    """
    encodings: dict[str, Json] = {}
    for index, recipe in enumerate(read_project(path, overrides).recipes()):
        if not recipe.objective.online:
            data = training_snapshot(path, snapshot, index, overrides)
            key = _encoding_key(data, recipe)
            if key not in encodings or recipe.objective.needs_captions:
                encodings[key] = {"snapshot": data, "recipe": index}
    return encodings


def _encoding_key(snapshot: Json, recipe: Recipe) -> str:
    """Recipes of one key share a cache."""
    science = (part.model_dump(mode="json") for part in (recipe.backbone, recipe.images))
    return canonical_json([snapshot["content_digest"], *science])


def check_search(path: str, *, gpu_memory_gib: float, hours: float, out: str | None) -> None:
    """ValueError for anything about a search that can be refused before its pairs are ingested."""
    from pipelines.search import recipe_search
    from pipelines.search.ranking import Limits

    limits = Limits(memory_gib=gpu_memory_gib, hours=hours)
    recipe_search.check(read_project(path), limits, Path(out) if out else None)


def search(path: str, snapshot: Json, *, gpu_memory_gib: float, hours: float, out: str | None) -> Json:
    """Recipes within the limits tried and ranked; the winner's recipe file, and the table of trials."""
    from pipelines.dispatch import jobs
    from pipelines.search import recipe_search
    from pipelines.search.ranking import Limits
    from pipelines.tracking import runs

    workspace = open_workspace(path)
    project, settings = workspace.project, workspace.settings
    run_key = f"{project.name}.search"
    answer = recipe_search.search(
        workspace,
        snapshot=DatasetSnapshot.model_validate(snapshot),
        limits=Limits(memory_gib=gpu_memory_gib, hours=hours),
        out=Path(out) if out else None,
        run_job=partial(jobs.run_to_end, settings=settings, parent_key=run_key),
    )
    tags = runs.airflow_tags(settings, run_key)
    run_id = runs.parent_run(settings, project=project.name, key=run_key, tags=tags)
    runs.finish_run(settings, run_id, "FINISHED")
    return answer
