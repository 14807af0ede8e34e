"""Inputs of several kinds of jobs: the base and other models, a snapshot, a file of prompts."""

from collections.abc import Callable
from pathlib import Path

from alignment.contracts.data import DatasetSnapshot
from pipelines.contracts.jobs import JobInput
from pipelines.dispatch.cached_digests import file_fingerprint, folder_fingerprint
from pipelines.dispatch.inputs import hash_cache_dir
from pipelines.dispatch.model_folders import check_base_folder, local_folder, local_path
from pipelines.host import this_host
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

__all__ = [
    "base_input",
    "local_prompts",
    "model_input",
    "prompts_input",
    "snapshot_input",
]


def base_input(workspace: Workspace) -> JobInput:
    """Return the base model as an input, checked and hashed; ValueError names every file that is missing from it."""
    return model_input(workspace.project.base.uri, check_base_folder, workspace.settings)


def model_input(uri: str, check: Callable[[Path], None], settings: Settings) -> JobInput:
    """Return a user's model as an input, hashed; ValueError when it does not exist, or from `check` of its folder."""
    folder = local_folder(uri, settings)
    check(folder)
    return JobInput(content_digest=folder_fingerprint(folder, hash_cache_dir(settings)), uri=uri, manifest=False)


def snapshot_input(snapshot: DatasetSnapshot) -> JobInput:
    """Return a snapshot as an input."""
    return JobInput(content_digest=snapshot.content_digest, uri=snapshot.uri)


def prompts_input(uri: str, name: str, settings: Settings) -> JobInput:
    """Return a prompts file as an input; a file in the store is fetched as `name`."""
    if uri.startswith("s3://"):
        digest = open_store(uri, settings).fetch_file(uri, settings.state_dir / "prompts" / name)
    else:
        digest = file_fingerprint(_existing(local_path(uri)), hash_cache_dir(settings))
    return JobInput(content_digest=digest, uri=uri, kind="file")


def local_prompts(prompts: JobInput, name: str, settings: Settings) -> Path:
    """Return the path at which `prompts_input` found or left the file."""
    return settings.state_dir / "prompts" / name if prompts.uri.startswith("s3://") else local_path(prompts.uri)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(
            f"The prompts file {path} does not exist on host {this_host()}. Copy it to the same path there, or give"
            " s3://..."
        )
    return path
