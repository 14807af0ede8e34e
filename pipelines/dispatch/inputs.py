"""Fetch a job's inputs to this host once, check them against their digests, and link them into its inputs folder."""

import logging
from pathlib import Path

from alignment.contracts.values import folder_digest
from alignment.files.paths import resolve_below
from pipelines.contracts.jobs import JobInput
from pipelines.contracts.store import Manifest
from pipelines.dispatch.cached_digests import file_fingerprint, folder_fingerprint
from pipelines.dispatch.model_folders import local_folder
from pipelines.settings import Settings
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)


def link_inputs(inputs: tuple[JobInput, ...], inputs_dir: Path, settings: Settings) -> None:
    """Make `inputs_dir` contain one link per input, named by alias or digest, and nothing else.

    Raises ValueError for an input that is missing, unfinished, or differs from its digest.
    """
    inputs_dir.mkdir(parents=True, exist_ok=True)
    for stale in inputs_dir.iterdir():
        stale.unlink()
    for item in inputs:
        link = inputs_dir / (item.alias or item.content_digest)
        if not link.is_symlink():
            link.symlink_to(_locate(item, settings).absolute())
        log.info("Input %s: %s", link.name[:12], item.uri)


def hash_cache_dir(settings: Settings) -> Path:
    """Return the folder that caches digests of folders read in place."""
    return settings.state_dir / "fingerprints"


def _locate(item: JobInput, settings: Settings) -> Path:
    if item.kind == "file":
        return _file(item, settings)
    return _published_folder(item, settings) if item.manifest else _plain_folder(item, settings)


def _file(item: JobInput, settings: Settings) -> Path:
    path = settings.state_dir / "inputs" / item.content_digest
    if not path.is_file() or file_fingerprint(path, hash_cache_dir(settings)) != item.content_digest:
        _check(item, open_store(settings.store_uri, settings).fetch_file(item.uri, path))
    return path


def _plain_folder(item: JobInput, settings: Settings) -> Path:
    path = local_folder(item.uri, settings)
    _check(item, folder_fingerprint(path, hash_cache_dir(settings)))
    return path


def _published_folder(item: JobInput, settings: Settings) -> Path:
    """Fetch a folder of the store to the shared cache; its files are checked against the manifest on arrival."""
    store = open_store(settings.store_uri, settings)
    manifest = store.read_manifest(item.uri)
    if manifest is None:
        raise ValueError(f"Input {item.uri} was never finished. Run the stage that writes it.")
    _check(item, _digest_of(manifest, item.subfolder))
    cached = settings.state_dir / "inputs" / manifest.content_digest
    store.fetch_folder(item.uri, cached, only=(item.subfolder,) if item.subfolder else ())
    return resolve_below(cached, item.subfolder, item.uri) if item.subfolder else cached


def _digest_of(manifest: Manifest, subfolder: str) -> str:
    """Return the content_digest of a published folder, or of a sub-folder of it."""
    if not subfolder:
        return manifest.content_digest
    prefix = f"{subfolder}/"
    inside = {p.removeprefix(prefix): e.sha256 for p, e in manifest.files.items() if p.startswith(prefix)}
    return folder_digest(inside)


def _check(item: JobInput, found: str) -> None:
    if found != item.content_digest:
        what = f"{item.uri}/{item.subfolder}" if item.subfolder else item.uri
        raise ValueError(
            f"Input {what} has digest {found}, but the job was made for {item.content_digest}: it changed since."
            " Restore it, or create the job again."
        )
