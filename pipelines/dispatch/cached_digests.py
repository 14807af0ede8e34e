"""Digests of files and folders that are read in place, cached until a size or a modification time changes.

A base model is gigabytes, and every request and every job needs its digest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from alignment.contracts.values import canonical_json, folder_digest
from alignment.files.paths import check_link
from pipelines.dispatch.job_folder import write_atomically
from pipelines.store.folders import hash_folder, sha256_file

WEIGHTS_SUFFIX = ".safetensors"


def folder_fingerprint(path: Path, cache_dir: Path) -> str:
    """Return the content_digest of a folder, see `folders.hash_folder`; ValueError when it is missing or empty."""
    return folder_digest(file_fingerprints(path, cache_dir))


def file_fingerprints(path: Path, cache_dir: Path) -> dict[str, str]:
    """Return the sha256 of each file that counts in a folder's content_digest, by relative path; ValueError as there.

    The folder is the user's: links to its own files, and a snapshot's into its Hugging Face cache, are allowed.
    """
    found = sorted(path.rglob("*"))
    for entry in found:
        check_link(entry, path, hub_links=True)
    remembered = cache_dir / f"{_listing_key(path, found)}.json"
    if remembered.is_file():
        kept: dict[str, str] = json.loads(remembered.read_text())
        return kept
    files = {name: entry.sha256 for name, entry in hash_folder(path, hub_links=True)[1].items()}
    write_atomically(remembered, canonical_json(files))
    return files


def weights_identity(sha256_by_path: Mapping[str, str]) -> str | None:
    """Return the sha256 over the sorted hashes of a folder's weights files: file names and other files do not change
    it.

    None without such a file.
    """
    weights = sorted(digest for path, digest in sha256_by_path.items() if path.endswith(WEIGHTS_SUFFIX))
    return hashlib.sha256("\n".join(weights).encode()).hexdigest() if weights else None


def file_fingerprint(path: Path, cache_dir: Path) -> str:
    """Return the sha256 of a file; ValueError when it is missing."""
    if not path.is_file():
        raise ValueError(f"File {path} does not exist. Check the path.")
    remembered = cache_dir / f"{_listing_key(path.parent, [path])}.sha256"
    if remembered.is_file():
        return remembered.read_text().strip()
    digest = sha256_file(path)
    write_atomically(remembered, digest)
    return digest


def _listing_key(root: Path, paths: list[Path]) -> str:
    """Return the sha256 over path, size and modification time of each file: it changes as soon as one of them does."""
    stats = [(p.relative_to(root).as_posix(), p.stat()) for p in paths if p.is_file()]
    listing = [str(root.absolute()), *([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)]
    return hashlib.sha256(canonical_json(listing).encode()).hexdigest()
