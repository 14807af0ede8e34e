"""Fetch a job's inputs to this host once, check them against their digests, and link them into its inputs folder."""

import hashlib
import logging
from pathlib import Path

from alignment.contracts.values import folder_digest
from alignment.files.paths import resolve_below
from pipelines.contracts.jobs import JobInput
from pipelines.contracts.store import Manifest
from pipelines.dispatch.cached_digests import file_fingerprint, folder_fingerprint
from pipelines.dispatch.feature_stream import FeatureStream, is_feature_cache
from pipelines.dispatch.input_cache import InputCache
from pipelines.dispatch.model_folders import local_folder, local_path
from pipelines.host import this_host
from pipelines.settings import Settings
from pipelines.store.folders import matches
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)


def link_inputs(
    inputs: tuple[JobInput, ...], inputs_dir: Path, settings: Settings, streams: list[FeatureStream] | None = None
) -> None:
    """Make `inputs_dir` contain one link per input, named by alias or digest, and nothing else.

    The inputs stay in the cache until this process ends. A feature cache that takes more than half the space of the
    input cache is added to `streams`, if given; the caller runs it while the job does.
    Raises ValueError for an input that is missing, unfinished, or differs from its digest, and one for all local inputs
    that are missing on this host.
    """
    _check_local(inputs)
    inputs_dir.mkdir(parents=True, exist_ok=True)
    for stale in inputs_dir.iterdir():
        stale.unlink()
    for item in inputs:
        link = inputs_dir / (item.alias or item.content_digest)
        if not link.is_symlink():
            stream = None if streams is None else _stream(item, inputs_dir, settings)
            if stream is not None and streams is not None:
                streams.append(stream)
            link.symlink_to((stream.folder if stream else _locate(item, settings)).absolute())
        log.info("Input %s: %s", link.name[:12], item.uri)


def hash_cache_dir(settings: Settings) -> Path:
    """Return the folder that caches digests of folders read in place."""
    return settings.state_dir / "fingerprints"


def _locate(item: JobInput, settings: Settings) -> Path:
    if item.kind == "file":
        return _file(item, settings)
    return _published_folder(item, settings) if item.manifest else _plain_folder(item, settings)


def _check_local(inputs: tuple[JobInput, ...]) -> None:
    """Raise ValueError that names every input which should be on this host and is not."""
    named = [item.uri for item in inputs if item.kind == "file" or not item.manifest]
    here = [local_path(uri) for uri in named if "://" not in uri or uri.startswith("file://")]
    gone = [str(path) for path in here if not path.exists()]
    if gone:
        raise ValueError(
            f"Host {this_host()} lacks {', '.join(gone)}, which the job reads in place. Copy them to the same path on"
            " every host that runs jobs, or name them by s3://... or hub://... in the project file."
        )


def _file(item: JobInput, settings: Settings) -> Path:
    store, cache = open_store(settings.store_uri, settings), InputCache(settings)
    known = cache.folder / item.content_digest
    path = cache.lease(known.name, known.stat().st_size if known.is_file() else store.stat(item.uri)[0])
    if not path.is_file() or file_fingerprint(path, hash_cache_dir(settings)) != item.content_digest:
        _check(item, store.fetch_file(item.uri, path))
    return path


def _stream(item: JobInput, inputs_dir: Path, settings: Settings) -> FeatureStream | None:
    """Return the stream of a feature cache that is too large to be fetched; None for any other input."""
    limit = InputCache(settings).limit_bytes
    if limit is None or item.kind == "file" or not item.manifest or item.subfolder:
        return None
    store = open_store(settings.store_uri, settings)
    manifest = store.read_manifest(item.uri)
    if manifest is None or not is_feature_cache(manifest):
        return None
    if sum(entry.num_bytes for entry in manifest.files.values()) <= limit // 2:
        return None
    _check(item, manifest.content_digest)
    job = hashlib.sha256(str(inputs_dir.absolute()).encode()).hexdigest()[:12]
    folder = InputCache(settings).lease(f"{manifest.content_digest}.{job}", limit // 2)
    return FeatureStream(store, item.uri, folder, limit_bytes=limit // 2)


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
    only = (item.subfolder,) if item.subfolder else ()
    wanted = [entry.num_bytes for path, entry in manifest.files.items() if not only or matches(path, only)]
    cached = InputCache(settings).lease(manifest.content_digest, sum(wanted))
    store.fetch_folder(item.uri, cached, only=only)
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
