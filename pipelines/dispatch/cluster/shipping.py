"""Inputs that only this host has, put into the store: the nodes of a cluster see nothing else of this host."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from pipelines.contracts.jobs import JobInput, JobRequest
from pipelines.dispatch.model_folders import local_path
from pipelines.store.folders import normal_uri
from pipelines.store.storage import Store

log = logging.getLogger(__name__)


def ship_inputs(request: JobRequest, store: Store) -> JobRequest:
    """Return the request with its local inputs published as inputs/DIGEST, each once. ValueError when one changed."""
    return request.model_copy(update={"inputs": tuple(_shipped(item, store) for item in request.inputs)})


def _shipped(item: JobInput, store: Store) -> JobInput:
    if item.manifest and item.kind == "folder":
        return item  # a stage published it, so it is in the store
    if item.uri.startswith(("s3://", "hub://")) or normal_uri(item.uri).startswith(f"{store.root}/"):
        return item
    uri = store.uri("inputs", item.content_digest)
    if item.kind == "file":
        if not store.exists(uri):
            store.create_bytes(uri, local_path(item.uri).read_bytes())
        return item.model_copy(update={"uri": uri})
    found = _digest(item, uri, store)
    if found != item.content_digest:
        raise ValueError(
            f"Input {item.uri} has digest {found}, but the job was made for {item.content_digest}: it changed since."
            " Restore it, or create the job again."
        )
    return item.model_copy(update={"uri": uri, "manifest": True})


def _digest(item: JobInput, uri: str, store: Store) -> str:
    """Return the digest of the published folder, after publishing it if it is not there yet."""
    manifest = store.read_manifest(uri)
    if manifest is not None:
        return manifest.content_digest
    log.info("Uploading %s to %s", item.uri, uri)
    return _publish(local_path(item.uri), uri, store)


def _publish(folder: Path, uri: str, store: Store) -> str:
    """Publish a folder and return its digest. Links, as in a Hugging Face cache, become the files they lead to."""
    if not any(path.is_symlink() for path in folder.rglob("*")):
        return store.publish_folder(folder, uri, {}).content_digest
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "folder"
        shutil.copytree(folder, whole, copy_function=_link_or_copy)
        return store.publish_folder(whole, uri, {}).content_digest


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
    return target
