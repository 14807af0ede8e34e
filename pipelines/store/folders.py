"""Published folders and their local copies: URIs, hashes, manifests, partial files and their locks."""

import errno
import fcntl
import fnmatch
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from alignment.contracts.names import check_name
from alignment.contracts.values import folder_digest
from alignment.files.paths import check_link
from pipelines.contracts.store import FileEntry, Manifest

MANIFEST_FILE = "manifest.json"
PARTIAL_SUFFIX = ".partial"
PARALLEL_TRANSFERS = 8
_UNIQUE = re.compile(r"\..+\.(?:(?P<host>[0-9a-f]{8})-)?[0-9a-f]{32}\.partial")
"""Names of `partial_path`. Those of `resumable_path` do not match."""
_SECONDS_OF_OTHERS = 24 * 3600.0
"""Age from which a partial file of another host counts as abandoned."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a write to a disk, quota or file system that cannot take so many bytes."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL}


class NotWritableError(ValueError):
    """A folder or the store refuses to be written, so that no other object will fare better."""


class NoSpaceError(OSError):
    """A disk has no space for a write, so that no other object will fare better. Its text has path and remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def space_for(path: Path, variable: str) -> Iterator[None]:
    """Turn a lack of space into NoSpaceError. `variable` is the setting that moves `path` to another disk."""
    try:
        yield
    except NoSpaceError:
        raise
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        reason = os.strerror(error.errno or 0)
        message = f"{path} cannot be written: {reason}. Free space there, or set {variable} to a place with more space."
        raise NoSpaceError(error.errno, f"{message} Then run the same command again.") from error


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(
    path: Path, exclude: Sequence[str] = (), *, hub_links: bool = False
) -> tuple[str, dict[str, FileEntry]]:
    """Return the content_digest of a local folder and its files, without a top-level manifest.json and partial files.

    `exclude` names paths, folders or globs relative to `path`. ValueError when the folder is missing or has no files,
    or when something that counts is a symbolic link; `hub_links`, for a user's model folder, allows those that
    `check_link` allows there.
    """
    files: dict[str, FileEntry] = {}
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path).as_posix()
        if relative == MANIFEST_FILE or is_partial(file.name) or matches(relative, exclude):
            continue
        check_link(file, path, hub_links=hub_links)
        if not file.is_file():
            continue
        files[relative] = FileEntry(sha256=sha256_file(file), num_bytes=file.stat().st_size)
    if not files:
        raise ValueError(f"Folder {path} does not exist or contains no files. Check the path.")
    return folder_digest({name: entry.sha256 for name, entry in files.items()}), files


def normal_uri(uri: str) -> str:
    """Normalise a URI: a local path becomes file://, and a trailing slash is removed.

    ValueError for any scheme but file:// and s3://, and for an S3 key with the part '..', which would leave the folder
    that the key is mirrored to.
    """
    if "://" not in uri:
        return Path(uri).absolute().as_uri()
    if not uri.startswith(("file:///", "s3://")):
        raise ValueError(f"Store URI {uri!r} is not valid. Use file:///folder, a local path or s3://bucket/key.")
    if uri.startswith("s3://") and ".." in uri.split("/"):
        raise ValueError(f"S3 key {uri} has the part '..'. Rename or delete the object; Plumbline writes no such key.")
    return uri.rstrip("/")


def join_uri(uri: str, path: str, source: str = "") -> str:
    """Return the URI of a relative path in a folder, quoted for a file:// URI; ValueError as `check_name` raises it."""
    root = normal_uri(uri)
    check_name(path, root, source)
    return f"{root}/{quote(path) if root.startswith('file://') else path}"


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Return True when a relative path is one of the patterns, lies in one of those folders, or fits a glob."""
    return any(path == p or path.startswith(f"{p.rstrip('/')}/") or fnmatch.fnmatch(path, p) for p in patterns)


def is_partial(name: str) -> bool:
    """Return True for the name of a file or folder that is still being written."""
    return name.startswith(".") and name.endswith(PARTIAL_SUFFIX)


def partial_path(path: Path) -> Path:
    """Return a unique name beside `path`, on the same file system, to write to before renaming."""
    return path.parent / f".{path.name[:100]}.{_host_mark()}-{uuid.uuid4().hex}{PARTIAL_SUFFIX}"


def _host_mark() -> str:
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def is_abandoned(path: Path) -> bool:
    """Return True for a file of `partial_path` that is to be deleted if no process holds it.

    On some shared file systems a host does not see the locks of the others, so that their files count only after a day.
    """
    name = _UNIQUE.fullmatch(path.name)
    if name is None:
        return False
    if name["host"] == _host_mark():
        return True
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _SECONDS_OF_OTHERS
    return False


def resumable_path(path: Path, uri: str) -> Path:
    """Return the name beside `path` to which an object is fetched; the same in every process, to continue a fetch."""
    return path.parent / f".{path.name[:100]}.{hashlib.sha256(uri.encode()).hexdigest()[:16]}{PARTIAL_SUFFIX}"


def parts_path(partial: Path) -> Path:
    """Return the file that lists the finished parts of a partial file."""
    return partial.with_name(f"{partial.name.removesuffix(PARTIAL_SUFFIX)}.parts{PARTIAL_SUFFIX}")


@contextmanager
def locked(path: Path, *, folder: bool = False) -> Iterator[None]:
    """Create a file or folder and hold it against other processes and threads of this host that lock it."""
    while True:
        if folder:
            path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_at(descriptor, path):
                continue  # renamed or deleted by the process that held it
            yield
            return
        finally:
            os.close(descriptor)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Create a file with a unique name and hold it, so that `remove_if_free` leaves it alone.

    A file system without locks holds nothing, and `remove_if_free` deletes nothing there.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            if not _is_at(descriptor, path):
                continue  # deleted before it was held
            yield
            return
        finally:
            os.close(descriptor)


def remove_if_free(path: Path) -> bool:
    """Delete a file or a folder unless a living process holds it; return True when it was deleted."""
    is_folder = path.is_dir() and not path.is_symlink()
    try:
        descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(descriptor, path):
            return False
        shutil.rmtree(path) if is_folder else path.unlink()
    except OSError:  # held, not ours to delete, or on a file system without locks
        return False
    finally:
        os.close(descriptor)
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def parse_manifest(data: bytes, uri: str) -> Manifest:
    """Parse a manifest; ValueError when it is invalid, inconsistent, or names a path outside its folder."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValueError as error:
        raise ValueError(f"{uri} is not a manifest: {error}. Delete the folder and run its stage again.") from error
    for path in manifest.files:
        check_name(path, uri.removesuffix(f"/{MANIFEST_FILE}"), uri)
    if manifest.content_digest != folder_digest({path: entry.sha256 for path, entry in manifest.files.items()}):
        raise ValueError(f"{uri} is inconsistent: its content_digest is not that of its files. Run its stage again.")
    return manifest


def fetched_files(local_dir: Path, manifest: Manifest) -> set[str]:
    """Return files of this manifest that an earlier fetch left here, compared by size; empty when there was no fetch.

    ValueError when the folder contains anything else, which a fetch would delete.
    """
    marker = local_dir / MANIFEST_FILE
    if not marker.is_file():
        if local_dir.is_dir() and any(not is_partial(entry.name) for entry in local_dir.iterdir()):
            raise ValueError(
                f"{local_dir} contains files that are not a fetched folder. Give an empty or a new folder."
            )
        return set()
    if parse_manifest(marker.read_bytes(), str(marker)).digest != manifest.digest:
        return set()
    paths = {path: local_dir / path for path in manifest.files}
    files = {path: file for path, file in paths.items() if file.is_file() and not file.is_symlink()}
    return {path for path, file in files.items() if file.stat().st_size == manifest.files[path].num_bytes}


def in_parallel(calls: Sequence[Callable[[], object]]) -> None:
    """Run transfers a few at a time; the first error stops the rest and is raised once the running ones have ended."""
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        try:
            for future in [pool.submit(call) for call in calls]:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
