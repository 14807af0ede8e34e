"""Checks of what a project reads: base model, sources, files, remote paths and licences."""

import json
from pathlib import Path
from typing import Any

from alignment.files.paths import resolve_below
from alignment.files.shards import indexed_files
from pipelines.dispatch.model_folders import check_remote
from pipelines.intake import ingestion
from pipelines.platform.checks.result import Check, check
from pipelines.project.file import Project
from pipelines.project.paths import local_paths
from pipelines.project.public_data_sets import looks_like_public
from pipelines.project.sections import TO_DO
from pipelines.settings import Settings
from pipelines.workspace import Workspace

WITHOUT_WEIGHTS = ("tokenizer", "scheduler", "feature_extractor")


def data_checks(project: Project, settings: Settings) -> list[Check]:
    """Check base model, sources, files of the project, remote paths, public data sets and licences."""
    return [
        check("base_model", lambda: _base_model(project), "Add the missing files to the folder of `[base] uri`."),
        check(
            "sources", lambda: _sources(Workspace(project, settings)), "Correct `kind` or `uri` under `[[sources]]`."
        ),
        check(
            "remote",
            lambda: _remote(project, settings),
            "Correct these addresses, or the network and the credentials (AWS_*, HF_TOKEN).",
        ),
        check("evaluation", lambda: _evaluation(project), "Add these files, or correct their paths in the project."),
        check("data_sets", lambda: _data_sets(project), "State `data_sets` of these sources, or rename them."),
        check("licences", lambda: _licences(project), "State a licence for the base and for every source."),
    ]


def _sources(workspace: Workspace) -> str:
    """Look at each source; ValueError names each that cannot be reached, has no shard or is not of its kind."""
    found = ingestion.inspect_sources(workspace)
    faults = [own for own in found.values() if isinstance(own, str)]
    if faults:
        raise ValueError(" ".join(faults))
    texts = []
    for name, facts in found.items():
        if facts is None:
            texts.append(f"{name}: not drawn yet, `plumbline draw` does it")
        elif not isinstance(facts, str):
            about = "about " * facts.is_estimate
            single = ", likes and dislikes of single images" * facts.is_unpaired
            texts.append(f"{name}: {facts.num_shards} shards, {about}{facts.num_rows} rows{single}")
    return "; ".join(texts)


def _remote(project: Project, settings: Settings) -> str:
    """Ask for each s3:// and hub:// path without fetching it; ValueError names each that cannot be reached.

    Sources on S3 have their own check.
    """
    ours = {source.uri for source in project.sources}
    uris = [uri for uri in dict.fromkeys(local_paths(project)) if uri.startswith(("s3://", "hub://"))]
    found, faults = [], []
    for uri in (own for own in uris if own not in ours):
        try:
            found.append(check_remote(uri, settings))
        except (ValueError, OSError, RuntimeError) as error:
            faults.append(str(error))
    if faults:
        raise ValueError(" ".join(faults))
    return "; ".join(found) or "no model or file is remote"


def _base_model(project: Project) -> str:
    """Check that a local base has every file; ValueError names those that it lacks."""
    if "://" in project.base.uri:
        return f"{project.base.uri} is fetched and checked when a job needs it"
    missing = _missing_files(Path(project.base.uri))
    if missing:
        raise ValueError(f"Base model {project.base.uri} lacks {', '.join(missing)}.")
    return f"{project.base.uri} is complete"


def _missing_files(base_dir: Path) -> list[str]:
    """List the configs and safetensors weights that model_index.json names and a diffusers folder lacks."""
    index_path = base_dir / "model_index.json"
    if not index_path.is_file():
        return ["model_index.json"]
    index: dict[str, Any] = json.loads(index_path.read_text(encoding="utf-8"))
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[0] is not None]
    folders = {part: resolve_below(base_dir, part, index_path, hub_links=True) for part in parts}
    return [lacking for part, folder in folders.items() for lacking in _missing_of_part(folder, part)]


def _missing_of_part(folder: Path, part: str) -> list[str]:
    if not folder.is_dir() or not any(folder.iterdir()):
        return [f"{part}/"]
    if part.startswith(WITHOUT_WEIGHTS):
        return []
    missing = [] if (folder / "config.json").is_file() else [f"{part}/config.json"]
    shards = {shard for index in folder.glob("*.safetensors.index.json") for shard in indexed_files(index)}
    missing += [f"{part}/{s.relative_to(folder).as_posix()}" for s in sorted(shards) if not s.is_file()]
    if not shards and not any(folder.glob("*.safetensors")):
        missing.append(f"{part}/*.safetensors")
    return missing


def _evaluation(project: Project) -> str:
    """Check that every local file and folder of the project exists; ValueError names those that do not."""
    section = project.evaluation
    checked_elsewhere = {project.base.uri, *(source.uri for source in project.sources)}
    paths = [
        path for path in dict.fromkeys(local_paths(project)) if "://" not in path and path not in checked_elsewhere
    ]
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise ValueError(f"These files or folders of the project are missing: {', '.join(missing)}.")
    return f"prompts, {len(section.judges)} judges and {len(section.guards)} guards exist"


def _data_sets(project: Project) -> str:
    """Compare sources with public data sets: a judge that learnt from one must not judge a model that did too."""
    unstated = [
        f"{source.name!r} looks like {known.title}"
        for source in project.sources
        if not source.data_sets and (known := looks_like_public(f"{source.name} {source.uri}"))
    ]
    if unstated:
        raise ValueError(
            f"Source {' and '.join(unstated)}, but does not say so: judges that learnt from it could vote on models"
            " that learnt from it too."
        )
    return ", ".join(f"{source.name}: {', '.join(source.data_sets) or 'own pairs'}" for source in project.sources)


def _licences(project: Project) -> str:
    """List the licences; ValueError names the base or the sources that state none."""
    stated = {"base": project.base.licence, **{source.name: source.licence for source in project.sources}}
    unstated = [name for name, licence in stated.items() if not licence.strip() or licence.startswith(TO_DO)]
    if unstated:
        raise ValueError(f"No licence is stated for {', '.join(unstated)}.")
    return ", ".join(f"{name}: {licence}" for name, licence in stated.items())
