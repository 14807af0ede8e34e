"""The stages, joined: plain JSON in, plain JSON out. What a subcommand and a DAG task both call.

Only this file knows which wing hands what to which. The wings are imported inside the functions, so that a DAG or a
command line pays for what it uses.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alignment.contracts.data import DatasetSnapshot, FeatureCache
from alignment.contracts.jobs import LABEL_REPORT_FILE
from alignment.contracts.soup import SoupIngredient
from alignment.contracts.training import Recipe, TrainResult
from alignment.contracts.values import canonical_json
from pipelines.contracts import CandidateVersion, JobRequest, RawBatch, SourceShard, ValidationReport
from pipelines.project import Project, load_project
from pipelines.settings import Settings, load_settings

Json = dict[str, Any]

PAIR_STAGES = ("draw_pairs", "label")
"""Job stages that make or label pairs, whatever the recipe."""


def read_project(path: str, overrides: tuple[str, ...] = ()) -> Project:
    """The project at `path`, with recipe overrides; ValueError names every bad field."""
    return load_project(Path(path), overrides)


# --- pairs come in --------------------------------------------------------------------------------------------------


def draw(path: str, *, run_key: str) -> list[Json]:
    """The pairs of every self_generated source, drawn here and now, as DrawnPairs; those drawn before are found."""
    sources = drawn_sources(read_project(path))
    return [run_job(path, "draw_pairs", {"source": source}, run_key=run_key) for source in sources]


def drawn_sources(project: Project) -> list[str]:
    """Names of the sources that the base model draws."""
    return [source.name for source in project.sources if source.draw is not None]


def list_shards(path: str) -> list[Json]:
    """Every shard of every source, as SourceShard."""
    from pipelines.dispatch import label_requests
    from pipelines.intake import ingestion

    settings = load_settings()
    project = label_requests.with_drawn_sources(read_project(path), settings)
    return [to_json(shard) for shard in ingestion.list_source_shards(project, settings)]


def ingest(path: str, shard: Json) -> Json:
    """A shard as an immutable RawBatch."""
    from pipelines.dispatch import label_requests
    from pipelines.intake import ingestion

    settings = load_settings()
    project = label_requests.with_drawn_sources(read_project(path), settings)
    return to_json(ingestion.ingest(SourceShard.model_validate(shard), project, settings))


def validate(path: str, batch: Json) -> Json:
    """A batch's ValidationReport; ValueError when the batch as a whole failed, so that nothing downstream moves."""
    from pipelines.intake import validation

    report = validation.validate(RawBatch.model_validate(batch), read_project(path), load_settings())
    if not report.passed:
        raise ValueError(f"{batch['source_file']}: {report.failure} The report is at {report.uri}.")
    return to_json(report)


def count_pairs(reports: list[Json]) -> dict[str, int]:
    """Totals of what came in."""
    found = [ValidationReport.model_validate(report) for report in reports]
    return {
        "batches": len(found),
        "pairs_in": sum(report.num_rows for report in found),
        "accepted": sum(report.num_accepted for report in found),
        "quarantined": sum(report.num_quarantined for report in found),
    }


def snapshot(path: str) -> Json:
    """Everything accepted so far as a DatasetSnapshot."""
    from pipelines.intake import snapshot as snapshots

    project, settings = read_project(path), load_settings()
    reports = snapshots.accepted_reports(project, settings, project.snapshot.sources)
    return to_json(snapshots.build_snapshot(reports, project, settings))


def enough_new_pairs(path: str, snapshot: Json) -> bool:
    """Whether the snapshot holds enough pairs that the last candidate was not trained on."""
    from pipelines import registry

    project, settings = read_project(path), load_settings()
    minimum = project.snapshot.minimum_new_pairs
    last = registry.get_alias(settings, project.name, "candidate") if minimum else None
    if last is None:
        return True
    tags = registry.version_tags(settings, project.name, last) or {}
    return _num_pairs(snapshot) - int(tags.get("data.num_pairs", 0)) >= minimum


def needs_captioned_snapshot(path: str, overrides: tuple[str, ...] = ()) -> bool:
    """Whether a recipe trains on captions that the project's [captions] makes."""
    return read_project(path, overrides).captions_wanted()


def training_snapshot(path: str, snapshot: Json, recipe: int, overrides: tuple[str, ...] = ()) -> Json:
    """The snapshot that a recipe (by its position in the project file) trains on.

    The accepted pairs as they are or, where the recipe trains on captions and the project makes them, the answer of the
    caption stage, which has to be there.
    """
    from pipelines.dispatch import jobs, requests

    project, settings = read_project(path, overrides), load_settings()
    if not project.trains_on_captions(project.recipes()[recipe]):
        return snapshot
    request = requests.caption_request(project, settings, DatasetSnapshot.model_validate(snapshot))
    captioned = jobs.fetch_answer(request, settings)
    if captioned is None:
        raise ValueError(
            f"Snapshot {snapshot['uri']} has no captions by [captions] of {path} yet. Run plumbline caption {path}."
        )
    return captioned


def plan_rewards(path: str) -> list[Json]:
    """One `given` of a train_reward job per reward: its position, and the snapshot of its sources."""
    from pipelines.intake import snapshot as snapshots

    project, settings = read_project(path), load_settings()
    plans = []
    for index, reward in enumerate(project.rewards):
        reports = snapshots.accepted_reports(project, settings, reward.sources)
        data = snapshots.build_snapshot(reports, project, settings)
        plans.append({"snapshot": to_json(data), "reward": index})
    return plans


# --- work goes out --------------------------------------------------------------------------------------------------


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


def labelled_snapshot(path: str, snapshot: Json, *, run_key: str) -> Json:
    """The snapshot with the labels that the project's [labelling] gives its training pairs; as it is without one."""
    if read_project(path).labelling is None:
        return snapshot
    return run_job(path, "label", {"snapshot": snapshot}, run_key=run_key)


def label_report(snapshot: Json) -> Json:
    """The LabelReport of a labelled snapshot."""
    import json

    from pipelines.storage import open_store

    settings = load_settings()
    report: Json = json.loads(
        open_store(snapshot["uri"], settings).read_bytes(f"{snapshot['uri']}/{LABEL_REPORT_FILE}")
    )
    return report


def check_search(path: str, *, gpu_memory_gib: float, hours: float, out: str | None) -> None:
    """ValueError for anything about a search that can be refused before its pairs are ingested."""
    from pipelines.search import recipe_search
    from pipelines.search.ranking import Limits

    limits = Limits(memory_gib=gpu_memory_gib, hours=hours)
    recipe_search.check(read_project(path), limits, Path(out) if out else None)


def search(path: str, snapshot: Json, *, gpu_memory_gib: float, hours: float, out: str | None) -> Json:
    """Recipes within the limits tried and ranked; the winner's recipe file, and the table of trials."""
    from pipelines import tracking
    from pipelines.dispatch import jobs
    from pipelines.search import recipe_search
    from pipelines.search.ranking import Limits

    project, settings = read_project(path), load_settings()
    run_key = f"{project.name}.search"
    answer = recipe_search.search(
        project,
        settings,
        snapshot=DatasetSnapshot.model_validate(snapshot),
        limits=Limits(memory_gib=gpu_memory_gib, hours=hours),
        out=Path(out) if out else None,
        run_job=partial(jobs.run_to_end, settings=settings, parent_key=run_key),
    )
    tags = tracking.airflow_tags(settings, run_key)
    run_id = tracking.parent_run(settings, project=project.name, key=run_key, tags=tags)
    tracking.finish_run(settings, run_id, "FINISHED")
    return answer


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
    from pipelines.prompts import check_enough_prompts

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


def champion_of(project: Project, settings: Settings) -> CandidateVersion | None:
    """The champion, None while the base is in place."""
    from pipelines.release import registration

    return registration.read_version(project, settings, "champion")


def _num_pairs(snapshot: Json) -> int:
    return sum(DatasetSnapshot.model_validate(snapshot).num_pairs.values())


def to_json(value: Any) -> Json:
    """A value object as plain data."""
    answer: Json = value.model_dump(mode="json")
    return answer
