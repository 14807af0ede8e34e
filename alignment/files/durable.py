"""Atomic file writes (write a temporary file, flush, rename), and digests of files and folders. Torch-free."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.contracts.values import folder_digest
from alignment.files.paths import check_link

READ_BYTES = 1 << 20


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` atomically. After a crash it holds either the old bytes or the new ones, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with named_errors(path), beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Add the path to an OSError without one; errors of write and close have none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def publish_folder(draft: Path, final: Path) -> None:
    """Rename a finished draft folder to its final name, after flushing every file. An existing folder is removed first.

    ValueError names a symbolic link in the draft.
    """
    for path in files_below(draft):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for folder in [draft, *(path for path in draft.rglob("*") if path.is_dir())]:
        _sync_folder(folder)
    if final.exists():
        shutil.rmtree(final)
    draft.rename(final)
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries. Without this a rename may be lost on power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """List every file below a folder that a job made, sorted by path. ValueError names a symbolic link."""
    found = sorted(folder.rglob("*"))
    for path in found:
        check_link(path, folder)
    return [path for path in found if path.is_file()]


def content_digest(folder: Path, paths: Iterable[Path] | None = None) -> str:
    """Return the `folder_digest` of the given files under `folder`, or of all its files."""
    chosen = files_below(folder) if paths is None else paths
    return folder_digest({path.relative_to(folder).as_posix(): file_sha256(path) for path in chosen})
