"""The stages, joined: plain JSON in, plain JSON out. What a subcommand and a DAG task both call.

Only this file knows which wing hands what to which. The wings are imported inside the functions, so that a DAG or a
command line pays for what it uses.
"""

from collections.abc import Sequence

from alignment.contracts.data import DatasetSnapshot, FeatureCache
from alignment.contracts.soup import SoupIngredient
from alignment.contracts.training import Recipe, TrainResult
from pipelines.contracts.jobs import JobRequest
from pipelines.contracts.release import CandidateVersion
from pipelines.project.file import Project
from pipelines.release.champion.versions import champion_of
from pipelines.settings import Settings, load_settings
from pipelines.stages.values import Json, read_project

PAIR_STAGES = ("draw_pairs", "label")
"""Job stages that make or label pairs, whatever the recipe."""


# --- pairs come in --------------------------------------------------------------------------------------------------


# --- work goes out --------------------------------------------------------------------------------------------------


def job_request(
    path: str, stage: str, given: Json, *, overrides: tuple[str, ...] = (), generation: int = 0
) -> JobRequest:
    """The request of a job stage from its upstream value objects.

    draw_pairs: {source}, its name; label and caption: {snapshot}; encode: {snapshot, recipe}; train: {cache, recipe},
    of which an online recipe reads no cache; soup: {trainings, results}, two lists of one order; train_reward:
    {snapshot, reward}; evaluate and coverage: {candidate}; calibrate: {snapshot}. `recipe` (0 when left out) and
    `reward` are positions in the project file.
    """
    from pipelines.dispatch import evaluation_requests, requests

    project, settings = read_project(path, overrides), load_settings()
    if stage in PAIR_STAGES:
        from pipelines.dispatch import label_requests

        request = label_requests.pair_request(project, settings, stage, given)
    elif stage in ("evaluate", "coverage"):
        build = _evaluate_request if stage == "evaluate" else _coverage_request
        request = build(project, settings, CandidateVersion.model_validate(given["candidate"]))
    elif stage == "soup":
        parts = _ingredients(project, given["trainings"], given["results"])
        request = requests.soup_request(project, settings, parts)
    elif stage == "calibrate":
        data = DatasetSnapshot.model_validate(given["snapshot"])
        request = evaluation_requests.calibrate_request(project, settings, data)
    elif stage == "train_reward":
        data, reward = DatasetSnapshot.model_validate(given["snapshot"]), project.rewards[int(given["reward"])]
        request = requests.reward_request(project, settings, data, reward)
    elif stage == "caption":
        request = requests.caption_request(project, settings, DatasetSnapshot.model_validate(given["snapshot"]))
    else:
        recipe: Recipe = project.recipes()[int(given.get("recipe", 0))]
        if stage == "train" and recipe.objective.online:
            request = requests.online_train_request(project, settings, recipe)
        elif stage == "encode":
            data = DatasetSnapshot.model_validate(given["snapshot"])
            request = requests.encode_request(project, settings, data, recipe)
        else:
            request = requests.train_request(project, settings, FeatureCache.model_validate(given["cache"]), recipe)
    return requests.with_generation(request, generation) if generation else request


def run_job(
    path: str, stage: str, given: Json, *, run_key: str, overrides: tuple[str, ...] = (), started_by: str = ""
) -> Json:
    """Run a job stage to its end here and now; an answer that exists is given at once.

    `started_by` is who has it run: whoever trained may not approve what came of it.
    """
    from pipelines.dispatch import jobs

    request = job_request(path, stage, given, overrides=overrides)
    return jobs.run_to_end(request, load_settings(), parent_key=run_key, started_by=started_by)


def _ingredients(project: Project, trainings: Sequence[Json], results: Sequence[Json]) -> list[SoupIngredient]:
    """Finished runs, each with the recipe it followed."""
    recipes = project.recipes()
    # Sliced, since the results of mapped tasks come one by one, and reading on to their end logs an error.
    return [
        SoupIngredient(recipe=recipes[int(training["recipe"])], result=TrainResult.model_validate(result))
        for training, result in zip(trainings, results[:], strict=True)
    ]


def _evaluate_request(project: Project, settings: Settings, candidate: CandidateVersion) -> JobRequest:
    from pipelines.dispatch import evaluation_requests
    from pipelines.records.heldout_prompts import check_enough_prompts

    check_enough_prompts(project, settings)
    return evaluation_requests.evaluate_request(
        project,
        settings,
        candidate=candidate,
        champion=champion_of(project, settings),
        snapshot_uri=candidate.snapshot_uri,
        snapshot_digest=candidate.snapshot_digest,
    )


def _coverage_request(project: Project, settings: Settings, candidate: CandidateVersion) -> JobRequest:
    from pipelines.dispatch import evaluation_requests

    champion = champion_of(project, settings)
    return evaluation_requests.coverage_request(project, settings, candidate=candidate, champion=champion)
