"""Digests of the files that MLflow serves. They are kept in the store, where users of MLflow have no write access.

The digest of the weights exists before registration; the serving code, MLmodel and the requirements are created at
registration. served/MODEL/WEIGHTS_DIGEST/FOLDER_DIGEST.json lists the sha256 of every file of a served folder.
"""

import json
import logging
from pathlib import Path

from pipelines.store.folders import hash_folder
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

SERVED_TAG = "served.digest"
NAMED_FILES = 3


def record(served_dir: Path, model: str, weights_digest: str, store: Store) -> dict[str, str]:
    """Save the digests of a folder before it is logged to MLflow; return the tag that names them."""
    digest, files = _hashes(served_dir)
    uri = store.uri("served", model, weights_digest, f"{digest}.json")
    store.create_bytes(uri, json.dumps(files, indent=1).encode())
    return {SERVED_TAG: digest}


def is_recorded(model: str, weights_digest: str, store: Store) -> bool:
    """Return True if the store has digests of a served folder with these weights; early versions have none."""
    return bool(_records(model, weights_digest, store))


def changed_files(served_dir: Path, model: str, weights_digest: str, store: Store) -> str:
    """Name the files of a folder that differ from those that registration logged to MLflow; empty when none does.

    Early versions have no recorded digests: only their weights can be verified, and a warning is logged.
    """
    digest, files = _hashes(served_dir)
    records = _records(model, weights_digest, store)
    if not records:
        log.warning(
            "%s: no digests were recorded for the files that serve weights %s; only the weights are verified, not the"
            " serving code.",
            model,
            weights_digest[:12],
        )
        return ""
    if any(uri.endswith(f"/{digest}.json") for uri in records):
        return ""
    differences = [_differences(json.loads(store.read_bytes(uri)), files) for uri in records]
    nearest = min(differences, key=len)
    return ", ".join(nearest[:NAMED_FILES]) + (f" and {len(nearest) - NAMED_FILES} more" * (len(nearest) > NAMED_FILES))


def _hashes(folder: Path) -> tuple[str, dict[str, str]]:
    digest, files = hash_folder(folder)
    return digest, {name: entry.sha256 for name, entry in files.items()}


def _records(model: str, weights_digest: str, store: Store) -> list[str]:
    return [uri for uri in store.list_uris(store.uri("served", model, weights_digest)) if uri.endswith(".json")]


def _differences(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in {*recorded, *found} if recorded.get(name) != found.get(name))
