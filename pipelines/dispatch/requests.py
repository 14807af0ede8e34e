"""Value objects of the stages before to JobRequests: what a job is given, and where its answer will be found.

The answer's URI is named by the spec's digest, so the same science is never computed twice.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from alignment.catalogues.objectives import check_captions
from alignment.catalogues.rewards import ClipScore
from alignment.contracts.calibration import CalibrationSpec
from alignment.contracts.captions import (
    Captioner,
    CaptionMethod,
    CaptionSpec,
    GeneratedCaptions,
    HybridCaptions,
    Perturbation,
    PerturbedPrompts,
)
from alignment.contracts.coverage import CoverageSpec
from alignment.contracts.data import DatasetSnapshot, EncodeSpec, FeatureCache
from alignment.contracts.evaluation import EvalSpec
from alignment.contracts.jobs import Placement
from alignment.contracts.judges import Judge
from alignment.contracts.labelling import DrawSpec, LabelSpec
from alignment.contracts.reward_models import RewardTrainSpec
from alignment.contracts.soup import Greedy, SoupIngredient, SoupSpec, Uniform
from alignment.contracts.training import OnlineData, Recipe, TrainSpec
from alignment.contracts.values import ValueObject, canonical_json, folder_digest
from alignment.labelling.captioner_files import check_captioner_files
from alignment.statistics.prompts import parse_prompts
from pipelines.contracts.jobs import JobInput, JobKind, JobRequest, SideOutput
from pipelines.dispatch.cached_digests import (
    file_fingerprint,
    file_fingerprints,
    folder_fingerprint,
    weights_identity,
)
from pipelines.dispatch.inputs import hash_cache_dir
from pipelines.dispatch.model_folders import check_base_folder, check_scorer_folder, local_folder, local_path
from pipelines.project.file import Project
from pipelines.project.sections import REWARD_SCHEME, CaptionsSection, GreedySoupSection, JudgeSection, RewardSection
from pipelines.records import trained_judges
from pipelines.records.heldout_prompts import check_not_heldout, heldout_prompts
from pipelines.settings import Settings
from pipelines.store.storage import open_store

FOLDERS: dict[JobKind, str] = {
    "draw_pairs": "drawn",
    "label": "snapshots",
    "caption": "snapshots",
    "encode": "features",
    "train": "models",
    "soup": "soups",
    "train_reward": "rewards",
    "evaluate": "evaluations",
    "coverage": "evaluations",
    "calibrate": "calibrations/reports",
}
"""Folder of the store that holds the answers of each kind of job."""
SAMPLES_FOLDER = "samples"
WEIGHTS_FOLDER = "weights"
JUDGE_FOLDER = "judge"


def caption_request(project: Project, settings: Settings, snapshot: DatasetSnapshot) -> JobRequest:
    """Give a snapshot's images texts of their own as [captions] says; the answer is a DatasetSnapshot again.

    ValueError when the project has no [captions], or its captioner is not there or not whole.
    """
    section = project.caption_section()
    inputs = [JobInput(content_digest=snapshot.content_digest, uri=snapshot.uri)]
    captioner = None
    if section.captioner is not None:
        inputs.append(_captioner_input(section.captioner, settings))
        drawing = section.model_dump(include={"prefix", "num_beams", "max_new_tokens"})
        captioner = Captioner(weights_digest=inputs[-1].content_digest, **drawing)
    spec = CaptionSpec(snapshot=snapshot.model_copy(update={"uri": ""}), method=_caption_method(section, captioner))
    return make_request(project, settings, spec, inputs=tuple(inputs), placement=project.placement.caption)


def encode_request(project: Project, settings: Settings, snapshot: DatasetSnapshot, recipe: Recipe) -> JobRequest:
    """Encode a snapshot's training pairs for the backbone of a recipe; ValueError when they lack captions it needs."""
    check_captions(recipe.objective, snapshot.num_captioned, f"snapshot {snapshot.uri}")
    base = base_input(project, settings)
    spec = EncodeSpec(
        snapshot_digest=snapshot.content_digest,
        base_digest=base.content_digest,
        backbone=recipe.backbone,
        images=recipe.images,
    )
    inputs = (base, JobInput(content_digest=snapshot.content_digest, uri=snapshot.uri))
    return make_request(project, settings, spec, inputs=inputs, placement=project.placement.encode)


def train_request(project: Project, settings: Settings, cache: FeatureCache, recipe: Recipe) -> JobRequest:
    """Train a recipe on a feature cache; ValueError when it is known to lack captions that the recipe needs."""
    check_captions(recipe.objective, cache.num_captioned, f"feature cache {cache.uri}")
    base = base_input(project, settings)
    spec = TrainSpec(recipe=recipe, base_digest=base.content_digest, cache_digest=cache.content_digest)
    inputs = (base, JobInput(content_digest=cache.content_digest, uri=cache.uri))
    return make_request(project, settings, spec, inputs=inputs, placement=project.placement.train)


def online_train_request(project: Project, settings: Settings, recipe: Recipe) -> JobRequest:
    """Train an online recipe on the project's prompts and the reward it names.

    ValueError when either is missing, or when the prompts hold some that the evaluation asks.
    """
    section = project.reward(recipe)
    assert project.online is not None
    prompts = prompts_input(project.online.prompts, f"{project.name}-online.txt", settings)
    with local_prompts(prompts, f"{project.name}-online.txt", settings).open(
        encoding="utf-8", errors="replace"
    ) as lines:
        check_not_heldout(lines, heldout_prompts(project, settings), project.online.prompts)
    ((reward, weights),) = judge_inputs(project, (section,), settings).items()
    base = base_input(project, settings)
    spec = TrainSpec(
        recipe=recipe,
        base_digest=base.content_digest,
        online=OnlineData(prompts_digest=prompts.content_digest, reward=reward),
    )
    return make_request(project, settings, spec, inputs=(base, prompts, *weights), placement=project.placement.train)


def soup_request(project: Project, settings: Settings, ingredients: Sequence[SoupIngredient]) -> JobRequest:
    """Average finished runs as the project's `[soup]` says.

    ValueError when the project has none, when there are fewer than two runs, or when the prompts of a greedy soup hold
    some that the evaluation asks.
    """
    if project.soup is None:
        raise ValueError(f'{project.path}: there is no [soup]. Add one, with method = "uniform" or "greedy".')
    if len(ingredients) < 2:
        raise ValueError(f"A soup needs two runs or more, got {len(ingredients)}. Name more recipes under [[train]].")
    runs = [part.result for part in ingredients]
    inputs = [JobInput(content_digest=r.weights_digest, uri=r.uri, subfolder=WEIGHTS_FOLDER) for r in runs]
    method: Uniform | Greedy = Uniform()
    if isinstance(project.soup, GreedySoupSection):
        method, tasting = _greedy(project, settings, project.soup)
        inputs += [base_input(project, settings), *tasting]
    spec = SoupSpec(ingredients=tuple(ingredients), method=method)
    return make_request(project, settings, spec, inputs=distinct(inputs), placement=project.placement.soup)


def reward_request(
    project: Project, settings: Settings, snapshot: DatasetSnapshot, reward: RewardSection
) -> JobRequest:
    """Train a preference head on a snapshot's comparisons and on a frozen encoder."""
    folder = local_folder(reward.encoder, settings)
    check_scorer_folder(folder, ClipScore())
    digest = folder_fingerprint(folder, hash_cache_dir(settings))
    spec = RewardTrainSpec(
        recipe=reward.recipe,
        snapshot_digest=snapshot.content_digest,
        embedder_digest=digest,
        mixture=reward.mixture,
    )
    inputs = (
        JobInput(content_digest=snapshot.content_digest, uri=snapshot.uri),
        JobInput(content_digest=digest, uri=reward.encoder, manifest=False),
    )
    return make_request(project, settings, spec, inputs=inputs, placement=project.placement.reward)


def with_generation(request: JobRequest, generation: int) -> JobRequest:
    """The same request to be run once more: another job, another folder of the store for its answer."""
    store_uri, _, name = request.output_uri.rpartition("/")
    name = request.spec_digest if generation == 0 else f"{request.spec_digest}.g{generation}"
    return request.model_copy(update={"generation": generation, "output_uri": f"{store_uri}/{name}"})


def base_input(project: Project, settings: Settings) -> JobInput:
    """The base model as an input, checked and hashed; ValueError names every file that is missing from it."""
    folder = local_folder(project.base.uri, settings)
    check_base_folder(folder)
    digest = folder_fingerprint(folder, hash_cache_dir(settings))
    return JobInput(content_digest=digest, uri=project.base.uri, manifest=False)


def _greedy(project: Project, settings: Settings, section: GreedySoupSection) -> tuple[Greedy, list[JobInput]]:
    """A greedy soup's method, and what its judge needs."""
    prompts = prompts_input(section.prompts, f"{project.name}-soup.tsv", settings)
    content = local_prompts(prompts, f"{project.name}-soup.tsv", settings).read_bytes()
    asked = [prompt.text for prompt in parse_prompts(content, section.prompts)]
    check_not_heldout(asked, heldout_prompts(project, settings), section.prompts)
    ((judge, weights),) = judge_inputs(project, (project.scorer(section.judge),), settings).items()
    method = Greedy(
        judge=judge,
        prompts_digest=prompts.content_digest,
        seeds=section.seeds,
        sampler=section.sampler or project.evaluation.sampler,
        minimum_gain=section.minimum_gain,
    )
    return method, [prompts, *weights]


def judge_of(project: Project, section: JudgeSection, settings: Settings) -> Judge:
    """A scorer of the project as specs name it, its weights hashed; ValueError when its folder is not whole."""
    (judge,) = judge_inputs(project, (section,), settings)
    return judge


def make_request(
    project: Project,
    settings: Settings,
    spec: ValueObject,
    *,
    inputs: tuple[JobInput, ...],
    placement: Placement,
    side_outputs: tuple[SideOutput, ...] = (),
) -> JobRequest:
    """A spec with what it takes to run it; its answer's place is named by its digest."""
    kind = _KINDS[type(spec)]
    return JobRequest(
        project=project.name,
        kind=kind,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
        inputs=inputs,
        output_uri=open_store(settings.store_uri, settings).uri(FOLDERS[kind], spec.digest),
        side_outputs=side_outputs,
        placement=placement,
    )


_KINDS: dict[type[ValueObject], JobKind] = {
    DrawSpec: "draw_pairs",
    LabelSpec: "label",
    CaptionSpec: "caption",
    EncodeSpec: "encode",
    TrainSpec: "train",
    SoupSpec: "soup",
    RewardTrainSpec: "train_reward",
    EvalSpec: "evaluate",
    CoverageSpec: "coverage",
    CalibrationSpec: "calibrate",
}


def _caption_method(section: CaptionsSection, captioner: Captioner | None) -> CaptionMethod:
    perturbation = Perturbation(level=section.level, seed=section.seed) if section.level is not None else None
    if captioner is None:
        assert perturbation is not None, "the section says so"
        return PerturbedPrompts(perturbation=perturbation)
    if perturbation is None:
        return GeneratedCaptions(captioner=captioner)
    return HybridCaptions(captioner=captioner, perturbation=perturbation)


def _captioner_input(uri: str, settings: Settings) -> JobInput:
    folder = local_folder(uri, settings)
    check_captioner_files(folder)
    digest = folder_fingerprint(folder, hash_cache_dir(settings))
    return JobInput(content_digest=digest, uri=uri, manifest=False)


def judge_inputs(
    project: Project, sections: tuple[JudgeSection, ...], settings: Settings
) -> dict[Judge, tuple[JobInput, ...]]:
    """Each judge as the spec names it, with the folder of its weights; none where the scorer has no weights."""
    return dict(_judge_input(project, section, settings) for section in sections)


def _judge_input(project: Project, section: JudgeSection, settings: Settings) -> tuple[Judge, tuple[JobInput, ...]]:
    """A folder of the user's, or the newest judge that the project has trained under a name, fixed by its digest.

    Its identity is that of its weights; a scorer without weights is what its settings say.
    """
    if not section.scorer.has_weights:
        settings_sha256 = hashlib.sha256(canonical_json(section.scorer.model_dump(mode="json")).encode()).hexdigest()
        return _judge(section, folder_digest({}), settings_sha256, trained_on=section.trained_on), ()
    if section.uri.startswith(REWARD_SCHEME):
        found = trained_judges.find(section.uri, project.name, settings)
        lessons = tuple(sorted({*section.trained_on, *found.trained_on}))
        weights = JobInput(content_digest=found.judge_digest, uri=found.uri, subfolder=JUDGE_FOLDER)
        identity = _stored_identity(found.uri, settings)
        judge = _judge(section, found.judge_digest, identity, trained_on=lessons)
        return judge.model_copy(update={"keeps_split": True}), (weights,)
    folder = local_folder(section.uri, settings)
    check_scorer_folder(folder, section.scorer)
    files = file_fingerprints(folder, hash_cache_dir(settings))
    weights = JobInput(content_digest=folder_digest(files), uri=section.uri, manifest=False)
    return _judge(section, weights.content_digest, weights_identity(files), trained_on=section.trained_on), (weights,)


def _stored_identity(uri: str, settings: Settings) -> str | None:
    """Of the judge in a reward's published folder; its manifest has the hashes."""
    manifest = open_store(uri, settings).read_manifest(uri)
    files = manifest.files if manifest else {}
    inside = f"{JUDGE_FOLDER}/"
    return weights_identity({path: entry.sha256 for path, entry in files.items() if path.startswith(inside)})


def _judge(section: JudgeSection, digest: str, identity: str | None, *, trained_on: tuple[str, ...]) -> Judge:
    return Judge(
        name=section.name, scorer=section.scorer, weights_digest=digest, identity=identity, trained_on=trained_on
    )


def prompts_input(uri: str, name: str, settings: Settings) -> JobInput:
    """A prompts file; one of the store is fetched as `name`."""
    if uri.startswith("s3://"):
        digest = open_store(uri, settings).fetch_file(uri, settings.state_dir / "prompts" / name)
    else:
        digest = file_fingerprint(_existing(local_path(uri)), hash_cache_dir(settings))
    return JobInput(content_digest=digest, uri=uri, kind="file")


def local_prompts(prompts: JobInput, name: str, settings: Settings) -> Path:
    """Where `prompts_input` found or left the file."""
    return settings.state_dir / "prompts" / name if prompts.uri.startswith("s3://") else local_path(prompts.uri)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"The prompts file {path} does not exist. Give a file on this host, or s3://...")
    return path


def distinct(inputs: list[JobInput]) -> tuple[JobInput, ...]:
    """One input per name under the inputs dir: two roles may be played by the same weights."""
    return tuple({item.alias or item.content_digest: item for item in inputs}.values())
