"""Requests of the jobs that make weights: features, training runs, soups and preference heads."""

from functools import partial

from alignment.catalogues.objectives import check_captions
from alignment.catalogues.rewards import ClipScore
from alignment.contracts.data import EncodeSpec, FeatureCache
from alignment.contracts.jobs import WEIGHTS_DIR
from alignment.contracts.reference_errors import SHARED_PRECISIONS, ReferenceErrors, reference_spec
from alignment.contracts.reward_models import RewardTrainSpec
from alignment.contracts.soup import Greedy, SoupIngredient, SoupSpec, Uniform
from alignment.contracts.training import OnlineData, Recipe, TrainSpec
from alignment.statistics.prompts import parse_prompts
from pipelines.contracts.jobs import JobInput, JobRequest
from pipelines.dispatch.job_kinds import Encode, Reference, Soup, Train, TrainReward
from pipelines.dispatch.model_folders import check_scorer_folder
from pipelines.dispatch.requests.inputs import (
    base_input,
    local_prompts,
    model_input,
    prompts_input,
    snapshot_input,
)
from pipelines.dispatch.requests.judges import judge_inputs
from pipelines.dispatch.requests.request import make_request
from pipelines.project.sections import GreedySoupSection
from pipelines.records.heldout_prompts import check_not_heldout, heldout_prompts
from pipelines.workspace import Workspace

__all__ = ["encode_request", "reference_request", "reward_request", "soup_request", "train_request"]


def encode_request(workspace: Workspace, job: Encode) -> JobRequest:
    """Encode a snapshot's training pairs for the backbone of a recipe; ValueError when they lack captions it needs."""
    snapshot, recipe = job.snapshot, job.recipe
    check_captions(recipe.objective, snapshot.num_captioned, f"snapshot {snapshot.uri}")
    base = base_input(workspace)
    spec = EncodeSpec(
        snapshot_digest=snapshot.content_digest,
        base_digest=base.content_digest,
        backbone=recipe.backbone,
        images=recipe.images,
        encoding=workspace.project.features,
    )
    return make_request(workspace, spec, inputs=[base, snapshot_input(snapshot)])


def reference_request(workspace: Workspace, job: Reference) -> JobRequest:
    """Compute the base's errors in the first visits of a recipe's pairs; ValueError when it may not share them."""
    base = base_input(workspace)
    training = TrainSpec(recipe=job.recipe, base_digest=base.content_digest, cache_digest=job.cache.content_digest)
    spec = reference_spec(training)
    if spec is None:
        raise ValueError(
            f"Recipe {job.recipe.name!r} cannot share errors of the base: it needs none, or its precision"
            f" {job.recipe.precision!r} is not one of {', '.join(SHARED_PRECISIONS)}. Train it without."
        )
    spec = spec.model_copy(update={"common": spec.common.model_copy(update={"steps": job.num_visits})})
    return make_request(workspace, spec, inputs=[base, _cache_input(job.cache)])


def train_request(workspace: Workspace, job: Train) -> JobRequest:
    """Train a recipe on a feature cache or, if it is online, on the project's prompts and the reward that it names.

    ValueError when the cache is missing or is known to lack captions that the recipe needs; online, when prompts or
    reward are missing, or when some of the prompts are evaluation prompts.
    """
    if job.recipe.objective.online:
        return _online_request(workspace, job.recipe)
    recipe, cache = job.recipe, job.cache
    if cache is None:
        raise ValueError(
            f"Recipe {recipe.name!r} trains on a feature cache, but none is given. Encode its snapshot first."
        )
    check_captions(recipe.objective, cache.num_captioned, f"feature cache {cache.uri}")
    base = base_input(workspace)
    spec = TrainSpec(recipe=recipe, base_digest=base.content_digest, cache_digest=cache.content_digest)
    return make_request(workspace, spec, inputs=[base, _cache_input(cache), *_reference_inputs(spec, job.reference)])


def _cache_input(cache: FeatureCache) -> JobInput:
    return JobInput(content_digest=cache.content_digest, uri=cache.uri)


def _reference_inputs(spec: TrainSpec, found: ReferenceErrors | None) -> list[JobInput]:
    """Return the base's errors as an input, by the name under which the job looks for them."""
    if found is None:
        return []
    wanted = reference_spec(spec)
    if wanted is None or wanted.key != found.key:
        raise ValueError(
            f"The reference errors {found.uri} are not those of recipe {spec.recipe.name!r} on this base and cache."
            " Leave them out, or compute them for this recipe."
        )
    return [JobInput(content_digest=found.content_digest, uri=found.uri, alias=wanted.key)]


def soup_request(workspace: Workspace, job: Soup) -> JobRequest:
    """Average finished runs as the project's `[soup]` describes.

    ValueError when the project has none, when there are fewer than two runs, or when a greedy soup's prompts contain
    evaluation prompts.
    """
    project = workspace.project
    if project.soup is None:
        raise ValueError(f'{project.path}: no [soup]. Add one, with method = "uniform" or "greedy".')
    if len(job.results) != len(job.trainings):
        raise ValueError(
            f"{len(job.results)} of {len(job.trainings)} trainings left a result. A train task that was marked as"
            " success leaves none: clear it; the result of a finished job is found by digest."
        )
    if len(job.results) < 2:
        raise ValueError(f"A soup needs two runs or more, got {len(job.results)}. Name more recipes under [[train]].")
    parts = zip(job.trainings, job.results, strict=True)
    ingredients = tuple(SoupIngredient(recipe=training.recipe, result=result) for training, result in parts)
    inputs = [JobInput(content_digest=r.weights_digest, uri=r.uri, subfolder=WEIGHTS_DIR) for r in job.results]
    method: Uniform | Greedy = Uniform()
    if isinstance(project.soup, GreedySoupSection):
        method, tasting = _greedy(workspace, project.soup)
        inputs += [base_input(workspace), *tasting]
    return make_request(workspace, SoupSpec(ingredients=ingredients, method=method), inputs=inputs)


def reward_request(workspace: Workspace, job: TrainReward) -> JobRequest:
    """Train a preference head on a snapshot's comparisons and on a frozen encoder."""
    snapshot, reward = job.snapshot, job.reward
    encoder = model_input(reward.encoder, partial(check_scorer_folder, scorer=ClipScore()), workspace.settings)
    spec = RewardTrainSpec(
        recipe=reward.recipe,
        snapshot_digest=snapshot.content_digest,
        embedder_digest=encoder.content_digest,
        mixture=reward.mixture,
    )
    return make_request(workspace, spec, inputs=[snapshot_input(snapshot), encoder])


def _online_request(workspace: Workspace, recipe: Recipe) -> JobRequest:
    project = workspace.project
    section = project.reward(recipe)
    assert project.online is not None
    name = f"{project.name}-online.txt"
    prompts = prompts_input(project.online.prompts, name, workspace.settings)
    with local_prompts(prompts, name, workspace.settings).open(encoding="utf-8", errors="replace") as lines:
        check_not_heldout(lines, heldout_prompts(workspace.project, workspace.store), project.online.prompts)
    ((reward, weights),) = judge_inputs(workspace, (section,)).items()
    base = base_input(workspace)
    spec = TrainSpec(
        recipe=recipe,
        base_digest=base.content_digest,
        online=OnlineData(prompts_digest=prompts.content_digest, reward=reward),
    )
    return make_request(workspace, spec, inputs=[base, prompts, *weights])


def _greedy(workspace: Workspace, section: GreedySoupSection) -> tuple[Greedy, list[JobInput]]:
    """Return a greedy soup's method, and the inputs of its judge."""
    project = workspace.project
    name = f"{project.name}-soup.tsv"
    prompts = prompts_input(section.prompts, name, workspace.settings)
    content = local_prompts(prompts, name, workspace.settings).read_bytes()
    asked = [prompt.text for prompt in parse_prompts(content, section.prompts)]
    check_not_heldout(asked, heldout_prompts(workspace.project, workspace.store), section.prompts)
    ((judge, weights),) = judge_inputs(workspace, (project.scorer(section.judge),)).items()
    method = Greedy(
        judge=judge,
        prompts_digest=prompts.content_digest,
        seeds=section.seeds,
        sampler=section.sampler or project.evaluation.sampler,
        minimum_gain=section.minimum_gain,
    )
    return method, [prompts, *weights]
