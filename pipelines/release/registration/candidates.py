"""Register trained weights (TrainResult) as a version of the project's model (CandidateVersion)."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.jobs import CHOSEN_ALARM_STEPS, CHOSEN_WORSE_STEPS, norm_ratios
from alignment.contracts.soup import SoupResult
from alignment.contracts.training import TrainResult
from pipelines.contracts.jobs import JobKind
from pipelines.contracts.release import CandidateVersion
from pipelines.records.jobs import starters
from pipelines.release.champion.versions import (
    INGREDIENTS_TAG,
    NORM_TAG,
    TRAINED_BY_TAG,
    WORSE_TAG,
    fetch_weights,
    read_version,
    trainer_tags,
    trainers_of,
)
from pipelines.release.registration import served_files, signing
from pipelines.store.folders import hash_folder
from pipelines.tracking import registry
from pipelines.tracking import runs as tracking_runs
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

SERVED_CODE = Path(__file__).parent / "served" / "pyfunc_model.py"
SERVING_REQUIREMENTS = (
    "mlflow==3.17.2",
    "accelerate==1.15.0",
    "diffusers==0.42.1",
    "peft>=0.17",
    "pillow>=11.2",
    "safetensors>=0.6",
    "torch==2.13.0",
    "transformers>=5.23,<6",
)
"""Packages that serve a version, at the releases that trained it."""


def register(
    result: TrainResult,
    workspace: Workspace,
    *,
    snapshot: DatasetSnapshot,
    run_id: str,
    more_tags: Mapping[str, str] = {},
) -> CandidateVersion:
    """Register the weights as a version, or find the version that has them, and point alias `candidate` at it.

    An existing version is not reused if it does not list every training source of these weights: the same weights may
    come from a soup whose judge has seen them. It is not reused either if MLflow has lost its files, or will lose them
    at the next `mlflow gc`: the store still has the weights, so they are logged again. `run_id` is the MLflow run that
    trained them. With a signing key, the served files are signed, including those of an existing unsigned version.
    ValueError when the weights in the store are not those of the result.
    """
    project, settings = workspace.project, workspace.settings
    version = registry.find_version(settings, project.name, weights_digest=result.weights_digest)
    known = _recorded_sources(workspace, version)
    sources = known | _training_sources(result, snapshot)
    trainers = _trainers(result, more_tags, workspace)
    lost = registry.missing_files(settings, project.name, version, soon=True) if version is not None else ""
    if lost:
        log.warning("%s They are logged again, as a new version.", lost)
    if version is None or sources != known or lost:
        with tempfile.TemporaryDirectory(prefix="plumbline-register-") as scratch:
            weights_dir = fetch_weights(result.uri, result.weights_digest, workspace.store, Path(scratch))
            tags = _tags(result, workspace, snapshot=snapshot, run_id=run_id)
            tags |= {"trained_on": json.dumps(sorted(sources)), **more_tags, **trainer_tags(*trainers)}
            version = _register_new(result, workspace, run_id=run_id, weights_dir=weights_dir, tags=tags)
        log.info("Registered version %d of %s", version, project.name)
    else:
        log.info("Version %d of %s already has these weights", version, project.name)
        _add_trainers(version, trainers, workspace)
        _sign_if_unsigned(version, result.weights_digest, workspace)
    tracking_runs.name_by_version(settings, project.name, output_uri=result.uri, version=version)
    _share_dataset(result, snapshot, workspace, run_id=run_id)
    registry.set_alias(settings, project.name, "candidate", version)
    candidate = read_version(workspace, version)
    assert candidate is not None
    return candidate


def register_soup(
    soup: SoupResult,
    trained: Sequence[tuple[TrainResult, DatasetSnapshot]],
    workspace: Workspace,
    *,
    run_id: str,
    more_tags: Mapping[str, str] = {},
) -> CandidateVersion:
    """Register an average of runs as a version, as `register` does for one run.

    Its training sources are those of its ingredients and the judge that selected them. ValueError when an ingredient is
    not one of the runs in `trained`.
    """
    runs = {result.weights_digest: (result, snapshot) for result, snapshot in trained}
    missing = [digest[:12] for digest in soup.ingredients if digest not in runs]
    if missing:
        raise ValueError(f"Soup {soup.uri} has ingredients of another run: {', '.join(missing)}. Make the soup again.")
    sources = {source for result, snapshot in trained for source in _training_sources(result, snapshot)}
    kept = [runs[digest][0] for digest in soup.ingredients]
    whole = kept[0].model_copy(
        update={
            "uri": soup.uri,
            "spec_digest": soup.spec_digest,
            "weights_digest": soup.weights_digest,
            "trained_on": tuple(sorted({*sources, *soup.chosen_by})),
        }
    )
    more = {INGREDIENTS_TAG: json.dumps(soup.ingredients), "soup.specs": json.dumps([r.spec_digest for r in kept])}
    store = workspace.store
    trainers = [name for run in kept for name in starters(store, workspace.project.name, "train", run.spec_digest)]
    more |= {**more_tags, **trainer_tags(*trainers, *trainers_of(more_tags))}
    for result, data in trained:
        _share_dataset(result, data, workspace, run_id=run_id)
    snapshot = runs[soup.ingredients[0]][1]
    return register(whole, workspace, snapshot=snapshot, run_id=run_id, more_tags=more)


def _share_dataset(result: TrainResult, snapshot: DatasetSnapshot, workspace: Workspace, *, run_id: str) -> None:
    """Show what a training learnt from on its page in MLflow, as on that of the pipeline's run."""
    name, digest = workspace.project.name, snapshot.content_digest
    tracking_runs.share_dataset(workspace.settings, name, run_id, output_uri=result.uri, digest=digest)


def _trainers(result: TrainResult, more_tags: Mapping[str, str], workspace: Workspace) -> list[str]:
    """List the people who started this training, and everyone else who started the same job before or elsewhere."""
    store = workspace.store
    kinds: tuple[JobKind, ...] = ("train", "soup")
    ran = [name for kind in kinds for name in starters(store, workspace.project.name, kind, result.spec_digest)]
    return [*trainers_of(more_tags), *ran]


def _add_trainers(version: int, trainers: Sequence[str], workspace: Workspace) -> None:
    """Add the people who trained these weights again to the version's tag."""
    tags = registry.version_tags(workspace.settings, workspace.project.name, version) or {}
    known = trainer_tags(*trainers_of(tags), *trainers)
    if known.get(TRAINED_BY_TAG, "") != tags.get(TRAINED_BY_TAG, ""):
        registry.set_version_tags(workspace.settings, workspace.project.name, version, known)


def _sign_if_unsigned(version: int, weights_digest: str, workspace: Workspace) -> None:
    """Sign a version that was registered without a signing key; ValueError when its files changed since."""
    project, settings = workspace.project, workspace.settings
    tags = registry.version_tags(settings, project.name, version) or {}
    if settings.signing_key is None or tags.get(signing.URI_TAG):
        return
    with tempfile.TemporaryDirectory(prefix="plumbline-sign-") as scratch:
        served = registry.fetch_served(settings, project.name, version, Path(scratch))
        weights_dir = served / registry.SERVED_WEIGHTS
        changed = served_files.changed_files(served, project.name, weights_digest, workspace.store)
        if changed or hash_folder(weights_dir)[0] != weights_digest:
            raise ValueError(
                f"Version {version} of {project.name!r} was not signed: {changed or 'its weights'} differ from the"
                " registered files. Delete the version and register the weights again."
            )
        recorded = served_files.is_recorded(project.name, weights_digest, workspace.store)
        signature = signing.sign(served if recorded else weights_dir, project.name, settings)
    registry.set_version_tags(settings, project.name, version, signature)


def _training_sources(result: TrainResult, snapshot: DatasetSnapshot) -> set[str]:
    """Return everything that influenced a run: its training sources and the judge that selected its recipe."""
    return {*(result.trained_on or snapshot.training_sources), *result.selected_by}


def _recorded_sources(workspace: Workspace, version: int | None) -> set[str]:
    """Return the training sources in a version's tags."""
    tags = registry.version_tags(workspace.settings, workspace.project.name, version) if version is not None else None
    return set(json.loads((tags or {}).get("trained_on", "[]")))


def _register_new(
    result: TrainResult, workspace: Workspace, *, run_id: str, weights_dir: Path, tags: dict[str, str]
) -> int:
    project = workspace.project
    sampler = project.evaluation.sampler
    return registry.register_weights(
        workspace.settings,
        model=project.name,
        kind=result.kind,
        weights_dir=weights_dir,
        code_path=SERVED_CODE,
        model_config={
            "kind": result.kind,
            "base_model": project.base.uri,
            "base_digest": result.base_digest,
            "weights_digest": result.weights_digest,
            "resolution": project.base.backbone.resolution,
            "scheduler": sampler.scheduler,
            "num_inference_steps": sampler.steps,
            "guidance_scale": sampler.guidance_scale,
        },
        pip_requirements=SERVING_REQUIREMENTS,
        run_id=run_id,
        tags=tags,
        seal=lambda served: {
            **served_files.record(served, project.name, result.weights_digest, workspace.store),
            **signing.sign(served, project.name, workspace.settings),
        },
    )


def _tags(result: TrainResult, workspace: Workspace, *, snapshot: DatasetSnapshot, run_id: str) -> dict[str, str]:
    """Return the tags of a version's origin: first those that `read_version` needs, then those for audits."""
    from_run = tracking_runs.run_tags(workspace.settings, run_id)
    tags = {
        "weights.kind": result.kind,
        registry.WEIGHTS_TAG: result.weights_digest,
        "weights.uri": result.uri,
        "spec.digest": result.spec_digest,
        "base.digest": result.base_digest,
        "snapshot.digest": snapshot.content_digest,
        "snapshot.uri": snapshot.uri,
        "train.run_id": run_id,
        "train.steps": str(result.steps),
        "train.num_pairs": str(result.num_pairs),
        "data.num_pairs": str(sum(snapshot.num_pairs.values())),
        "licence.base": workspace.project.base.licence,
        "licence.data": ", ".join(sorted(snapshot.licences)),
        "git.sha": workspace.settings.git_sha or from_run.get("git.sha", ""),
    }
    worse = result.final_metrics.get(CHOSEN_WORSE_STEPS, 0.0)
    if worse >= CHOSEN_ALARM_STEPS:
        tags[WORSE_TAG] = f"{worse:.0f}"
    if ratios := norm_ratios(result.final_metrics):
        tags[NORM_TAG] = json.dumps([round(ratio, 4) for ratio in ratios])
    airflow = {name: value for name, value in from_run.items() if name.startswith("airflow.")}
    return {name: value for name, value in {**tags, **airflow}.items() if value}
