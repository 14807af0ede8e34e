"""Seals: what MLflow was given to serve, file by file, kept in the store, where those who may write to MLflow cannot.

Weights are known by their digest before they are registered; the code that serves them, MLmodel and the requirements
are made at registration. served/MODEL/WEIGHTS_DIGEST/FOLDER_DIGEST.json lists the sha256 of every file of a folder.
"""

import json
import logging
from pathlib import Path

from pipelines.store.folders import hash_folder
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

SERVED_TAG = "served.digest"
NAMED_FILES = 3


def seal(served_dir: Path, model: str, weights_digest: str, store: Store) -> dict[str, str]:
    """Keep the seal of a folder before it is handed to MLflow; the tag that says so."""
    digest, files = _hashes(served_dir)
    uri = store.uri("served", model, weights_digest, f"{digest}.json")
    store.create_bytes(uri, json.dumps(files, indent=1).encode())
    return {SERVED_TAG: digest}


def is_sealed(model: str, weights_digest: str, store: Store) -> bool:
    """Whether any folder with these weights was sealed: none was before there were seals."""
    return bool(_seals(model, weights_digest, store))


def broken(served_dir: Path, model: str, weights_digest: str, store: Store) -> str:
    """Which files of a folder are not those that registration gave to MLflow; empty when all are.

    Of weights from before there were seals only the weights are known: a warning in the log says so.
    """
    digest, files = _hashes(served_dir)
    seals = _seals(model, weights_digest, store)
    if not seals:
        log.warning(
            "%s: what serves weights %s was never sealed; its code is taken as it is.", model, weights_digest[:12]
        )
        return ""
    if any(uri.endswith(f"/{digest}.json") for uri in seals):
        return ""
    differences = [_differences(json.loads(store.read_bytes(uri)), files) for uri in seals]
    nearest = min(differences, key=len)
    return ", ".join(nearest[:NAMED_FILES]) + (f" and {len(nearest) - NAMED_FILES} more" * (len(nearest) > NAMED_FILES))


def _hashes(folder: Path) -> tuple[str, dict[str, str]]:
    digest, files = hash_folder(folder)
    return digest, {name: entry.sha256 for name, entry in files.items()}


def _seals(model: str, weights_digest: str, store: Store) -> list[str]:
    return [uri for uri in store.list_uris(store.uri("served", model, weights_digest)) if uri.endswith(".json")]


def _differences(sealed: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
