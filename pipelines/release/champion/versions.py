"""Registered model versions: read them, fetch their weights, and name who trained them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pipelines.contracts.release import CandidateVersion
from pipelines.release.champion.state import sound_champion
from pipelines.store.folders import hash_folder
from pipelines.store.storage import Store
from pipelines.tracking import registry
from pipelines.workspace import Workspace

INGREDIENTS_TAG = "soup.ingredients"
WORSE_TAG = "train.chosen_worse_steps"
"""Steps in a row, at the end of training, in which the chosen images were predicted worse than by the base."""
NORM_TAG = "train.prediction_norm_ratios"
"""Ratios of the policy's to the base's prediction norms at the end of training, as a JSON list by timestep bin."""
TRAINED_BY_TAG = "trained.by"
"""Tag with the people who started the training, separated by ", ": they may not approve its result."""


def trainer_tags(*trained_by: str) -> dict[str, str]:
    """Return the tag that names who started a training; none if a schedule or an asset started it."""
    names = sorted({name for name in trained_by if name})
    return {TRAINED_BY_TAG: ", ".join(names)} if names else {}


def trainers_of(tags: Mapping[str, str]) -> list[str]:
    """Return the people who started the training of a version with these tags."""
    return [name for name in tags.get(TRAINED_BY_TAG, "").split(", ") if name]


def ingredients_of(tags: Mapping[str, str]) -> list[str]:
    """Return the digests of the weights that a version with these tags is an average of; none for one run's weights."""
    digests: list[str] = json.loads(tags.get(INGREDIENTS_TAG, "[]"))
    return digests


def read_version(workspace: Workspace, version: int | str) -> CandidateVersion | None:
    """Read a version by number or alias, from its tags; None when the version or alias does not exist.

    ValueError when the alias names a deleted version, when `champion` differs from the ledger, or when a tag that
    registration writes is missing or invalid.
    """
    project, settings = workspace.project, workspace.settings
    if version == "champion":
        number = sound_champion(project.name, settings)
    else:
        number = registry.get_alias(settings, project.name, version) if isinstance(version, str) else version
    tags = registry.version_tags(settings, project.name, number) if number is not None else None
    if number is None or tags is None:
        return None
    try:
        return CandidateVersion(
            model=project.name,
            version=number,
            kind=tags["weights.kind"],  # type: ignore[arg-type]
            weights_digest=tags[registry.WEIGHTS_TAG],
            weights_uri=tags["weights.uri"],
            spec_digest=tags["spec.digest"],
            base_digest=tags["base.digest"],
            snapshot_digest=tags["snapshot.digest"],
            snapshot_uri=tags["snapshot.uri"],
            trained_on=tuple(json.loads(tags["trained_on"])),
            run_id=tags["train.run_id"],
            prediction_norm_ratios=tuple(json.loads(tags.get(NORM_TAG, "[]"))),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Version {number} of model {project.name!r} lacks a tag that registration writes, or it was changed:"
            f" {error}. Delete the version in MLflow and register the weights again."
        ) from error


def find_version(workspace: Workspace, name: str) -> CandidateVersion | None:
    """Return the version with this number or alias, or the one that an MLflow run made; None for `base`.

    Without a champion, the alias `champion` stands for the base. ValueError when nothing has this name.
    """
    project, settings = workspace.project, workspace.settings
    if name == "base":
        return None
    if re.fullmatch(r"[0-9a-f]{32}", name):
        number = registry.version_of_run(settings, project.name, name)
        found = read_version(workspace, number) if number is not None else None
    else:
        found = read_version(workspace, int(name) if name.isdecimal() else name)
    if found is None and name != "champion":
        there = ", ".join(map(str, registry.list_versions(settings, project.name))) or "none yet"
        raise ValueError(
            f"Model {project.name!r} has no version {name!r}. Give a number ({there}), `champion`, `candidate`,"
            " `base`, or the id of the MLflow run that trained it."
        )
    return found


def fetch_weights(uri: str, weights_digest: str, store: Store, local_dir: Path) -> Path:
    """Fetch the weights of a TrainResult's folder, verify their digest and return their local folder."""
    store.fetch_folder(uri, local_dir / "result", only=("weights",))
    weights_dir = local_dir / "result" / "weights"
    found = hash_folder(weights_dir)[0]
    if found != weights_digest:
        raise ValueError(
            f"The weights in {uri} have digest {found}, but {weights_digest} was expected: they are not the ones that"
            " were trained and evaluated. Restore the folder, or train again."
        )
    return weights_dir


def champion_of(workspace: Workspace) -> CandidateVersion | None:
    """Return the champion, or None while the base model is in place."""
    from pipelines.release.champion import versions

    return versions.read_version(workspace, "champion")
