"""TrainResult to CandidateVersion: trained weights become a version of the project's registered model."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.soup import SoupResult
from alignment.contracts.training import TrainResult
from pipelines.contracts.jobs import JobKind
from pipelines.contracts.release import CandidateVersion
from pipelines.records.jobs import starters
from pipelines.release.champion.versions import TRAINED_BY_TAG, fetch_weights, read_version, trainer_tags, trainers_of
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
"""What serves a version; the versions that trained it."""


def register(
    result: TrainResult,
    workspace: Workspace,
    *,
    snapshot: DatasetSnapshot,
    run_id: str,
    more_tags: Mapping[str, str] = {},
) -> CandidateVersion:
    """Make the weights a version, or find the version that holds them already, and point alias `candidate` at it.

    A version that does not own up to all that these weights learnt from is not enough: the same weights may come out of
    a soup whose judge has seen them. Nor is one whose files MLflow has lost, or will lose at the next `mlflow gc`: the
    store still has the weights, so they are logged again. `run_id` is the MLflow run that trained them. With a signing
    key all that is served is signed, that of a version that is found without a signature too. ValueError when the
    weights in the store are not those of the result.
    """
    project, settings = workspace.project, workspace.settings
    version = registry.find_version(settings, project.name, weights_digest=result.weights_digest)
    known = _lessons(workspace, version)
    lessons = known | _taught_by(result, snapshot)
    trainers = _trainers(result, more_tags, workspace)
    lost = registry.missing_files(settings, project.name, version, soon=True) if version is not None else ""
    if lost:
        log.warning("%s They are logged again, as a new version.", lost)
    if version is None or lessons != known or lost:
        with tempfile.TemporaryDirectory(prefix="plumbline-register-") as scratch:
            weights_dir = fetch_weights(result.uri, result.weights_digest, workspace.store, Path(scratch))
            tags = _tags(result, workspace, snapshot=snapshot, run_id=run_id)
            tags |= {"trained_on": json.dumps(sorted(lessons)), **more_tags, **trainer_tags(*trainers)}
            version = _register_new(result, workspace, run_id=run_id, weights_dir=weights_dir, tags=tags)
        log.info("Registered version %d of %s", version, project.name)
    else:
        log.info("Version %d of %s holds these weights already", version, project.name)
        _add_trainers(version, trainers, workspace)
        _sign_if_unsigned(version, result.weights_digest, workspace)
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
    """Make an average of runs a version, as `register` does for one run.

    It learnt from whatever its ingredients learnt from, and from the judge that chose them. ValueError when an
    ingredient is none of the runs of `trained`.
    """
    runs = {result.weights_digest: (result, snapshot) for result, snapshot in trained}
    missing = [digest[:12] for digest in soup.ingredients if digest not in runs]
    if missing:
        raise ValueError(f"Soup {soup.uri} has ingredients of another run: {', '.join(missing)}. Make the soup anew.")
    lessons = {lesson for result, snapshot in trained for lesson in _taught_by(result, snapshot)}
    kept = [runs[digest][0] for digest in soup.ingredients]
    whole = kept[0].model_copy(
        update={
            "uri": soup.uri,
            "spec_digest": soup.spec_digest,
            "weights_digest": soup.weights_digest,
            "trained_on": tuple(sorted({*lessons, *soup.chosen_by})),
        }
    )
    more = {"soup.ingredients": json.dumps(soup.ingredients), "soup.specs": json.dumps([r.spec_digest for r in kept])}
    store = workspace.store
    trainers = [name for run in kept for name in starters(store, workspace.project.name, "train", run.spec_digest)]
    more |= {**more_tags, **trainer_tags(*trainers, *trainers_of(more_tags))}
    snapshot = runs[soup.ingredients[0]][1]
    return register(whole, workspace, snapshot=snapshot, run_id=run_id, more_tags=more)


def _trainers(result: TrainResult, more_tags: Mapping[str, str], workspace: Workspace) -> list[str]:
    """Who has it registered as their training, and everybody who had the job run, before or elsewhere."""
    store = workspace.store
    kinds: tuple[JobKind, ...] = ("train", "soup")
    ran = [name for kind in kinds for name in starters(store, workspace.project.name, kind, result.spec_digest)]
    return [*trainers_of(more_tags), *ran]


def _add_trainers(version: int, trainers: Sequence[str], workspace: Workspace) -> None:
    """Whoever trained these weights again, or was not known to have, is named beside the first."""
    tags = registry.version_tags(workspace.settings, workspace.project.name, version) or {}
    known = trainer_tags(*trainers_of(tags), *trainers)
    if known.get(TRAINED_BY_TAG, "") != tags.get(TRAINED_BY_TAG, ""):
        registry.set_version_tags(workspace.settings, workspace.project.name, version, known)


def _sign_if_unsigned(version: int, weights_digest: str, workspace: Workspace) -> None:
    """A version that was registered before there was a key gets its signature, if it still is what was registered."""
    project, settings = workspace.project, workspace.settings
    tags = registry.version_tags(settings, project.name, version) or {}
    if settings.signing_key is None or tags.get(signing.URI_TAG):
        return
    with tempfile.TemporaryDirectory(prefix="plumbline-sign-") as scratch:
        served = registry.fetch_served(settings, project.name, version, Path(scratch))
        weights_dir = served / registry.SERVED_WEIGHTS
        changed = served_files.broken(served, project.name, weights_digest, workspace.store)
        if changed or hash_folder(weights_dir)[0] != weights_digest:
            raise ValueError(
                f"Version {version} of {project.name!r} is not signed: {changed or 'its weights'} differ from what was"
                " registered. Delete the version and register the weights again."
            )
        sealed = served_files.is_sealed(project.name, weights_digest, workspace.store)
        signature = signing.sign(served if sealed else weights_dir, project.name, settings)
    registry.set_version_tags(settings, project.name, version, signature)


def _taught_by(result: TrainResult, snapshot: DatasetSnapshot) -> set[str]:
    """Whatever decided what a run became: what it was trained on, and the judge that chose its recipe."""
    return {*(result.trained_on or snapshot.training_sources), *result.selected_by}


def _lessons(workspace: Workspace, version: int | None) -> set[str]:
    """What a version says that it learnt from."""
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
            **served_files.seal(served, project.name, result.weights_digest, workspace.store),
            **signing.sign(served, project.name, workspace.settings),
        },
    )


def _tags(result: TrainResult, workspace: Workspace, *, snapshot: DatasetSnapshot, run_id: str) -> dict[str, str]:
    """Where the version came from. Those that read_version needs, then what an auditor asks for."""
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
    airflow = {name: value for name, value in from_run.items() if name.startswith("airflow.")}
    return {name: value for name, value in {**tags, **airflow}.items() if value}
