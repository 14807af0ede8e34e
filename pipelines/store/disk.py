"""Objects on a disk: the file:// backend of the store. Missing objects and refused writes are ValueErrors."""

import errno
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from alignment.files.paths import resolve_below
from pipelines.store.folders import (
    NotWritableError,
    held,
    is_abandoned,
    is_partial,
    join_uri,
    normal_uri,
    partial_path,
    remove_if_free,
    sha256_file,
    space_for,
)

_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_HASHED_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 1024 * 1024
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def missing(uri: str) -> ValueError:
    """Return the error for an object that does not exist, on a disk of this host or elsewhere."""
    from pipelines.host import this_host  # DAG files load this module, and need no process table

    where = f" on host {this_host()}" if uri.startswith("file://") else ""
    return ValueError(f"{uri} does not exist{where}. Check the URI, or run the stage that writes it.")


def changed(uri: str) -> ValueError:
    """Return the error for an object that was replaced while its parts were read."""
    return ValueError(f"{uri} was replaced while it was read. Delete its folder and run the stage that writes it.")


class DiskBackend:
    """file:// URIs. Every write goes to a unique name beside the target and is synced before it replaces the target.

    The process holds that name meanwhile; what a killed process leaves is deleted by `remove_abandoned`.
    """

    large_bytes = math.inf
    """Size from which a file moves alone; none does."""

    def read(self, uri: str) -> bytes:
        try:
            return local_path(uri).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise missing(uri) from error

    def write(self, uri: str, data: bytes) -> None:
        with _partial_beside(uri) as partial:
            _write_synced(partial, data)
            partial.replace(local_path(uri))

    def create(self, uri: str, data: bytes) -> bool:
        with _partial_beside(uri) as partial:
            _write_synced(partial, data)
            try:
                os.link(partial, local_path(uri))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                return _create_exclusively(local_path(uri), data)
        return True

    def exists(self, uri: str) -> bool:
        return local_path(uri).is_file()

    def stat(self, uri: str) -> tuple[int, str]:
        if not self.exists(uri):
            raise missing(uri)
        path = local_path(uri)
        facts = path.stat()
        if facts.st_size <= _HASHED_BYTES:
            return facts.st_size, sha256_file(path)
        return facts.st_size, f"{facts.st_size}-{facts.st_mtime_ns}"

    def list_folder(self, uri: str) -> list[str]:
        found = (p for p in local_path(uri).rglob("*") if p.is_file() and not is_partial(p.name))
        return sorted(path.as_uri() for path in found)

    def delete(self, uri: str) -> None:
        with _writable(uri):
            local_path(uri).unlink(missing_ok=True)

    def remove_abandoned(self, uri: str) -> int:
        found = (Path(folder, name) for folder, _, names in os.walk(local_path(uri)) for name in names)
        return sum(remove_if_free(path) for path in found if is_abandoned(path))

    def upload(self, path: Path, uri: str, *, move: bool = False) -> None:
        with _partial_beside(uri) as partial:
            if move and _renamed(path, local_path(uri), like=partial):
                return
            shutil.copyfile(path, partial)
            _sync(partial)
            partial.replace(local_path(uri))

    def read_range(self, uri: str, first: int, num_bytes: int, version: str) -> tuple[bytes, str]:
        with self._opened(uri, version) as (stream, token):
            stream.seek(first)
            return stream.read(num_bytes), token

    def read_blocks(self, uri: str, version: str) -> Iterator[bytes]:
        with self._opened(uri, version) as (stream, _):
            while block := stream.read(_BLOCK_BYTES):
                yield block

    @contextmanager
    def _opened(self, uri: str, version: str) -> Iterator[tuple[BinaryIO, str]]:
        """Open an object, with the token of its version."""
        if not self.exists(uri):
            raise missing(uri)
        with local_path(uri).open("rb") as stream:
            facts = os.fstat(stream.fileno())
            token = f"{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}"
            if version not in ("", token):
                raise changed(uri)
            yield stream, token

    def download(self, uri: str, path: Path, num_bytes: int | None = None) -> None:
        if not self.exists(uri):
            raise missing(uri)
        shutil.copyfile(local_path(uri), path)


def local_path(uri: str) -> Path:
    """Return the path of a file:// URI."""
    return Path(unquote(uri.removeprefix("file://")))


def named_uri(folder_uri: str, name: str, source: str) -> str:
    """Return the URI of a file that `source`, a file of the folder, names; ValueError when it leaves the folder."""
    uri = join_uri(folder_uri, name, source)
    if uri.startswith("file://"):
        resolve_below(local_path(normal_uri(folder_uri)), name, source)
    return uri


@contextmanager
def _partial_beside(uri: str) -> Iterator[Path]:
    """Yield a path to write to before the rename; it is deleted afterwards in any case."""
    partial = partial_path(local_path(uri))
    with _writable(uri):
        partial.parent.mkdir(parents=True, exist_ok=True)
        with held(partial):
            try:
                yield partial
            finally:
                partial.unlink(missing_ok=True)


@contextmanager
def _writable(uri: str) -> Iterator[None]:
    """Turn a refusal to write into a ValueError, and a full disk into NoSpaceError."""
    try:
        with space_for(local_path(uri), "PLUMBLINE_STORE_URI"):
            yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise NotWritableError(
            f"Store is not writable at {uri}: {error.strerror}. Make the folder writable for this user, or set"
            " PLUMBLINE_STORE_URI to one that is."
        ) from error


def _renamed(path: Path, target: Path, *, like: Path) -> bool:
    """Rename a file to its place in the store; False, and nothing done, when it has to be copied.

    That is so on another file system, and where those who may read a new file of the store, `like`, could not read it:
    folders of a store pass their group and access rules on to new files only.
    """
    if _access(path) != _access(like):
        return False
    _sync(path)
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _access(path: Path) -> tuple[object, ...]:
    """Return the file system of a file, its owner, group and mode, and the names of its access rules."""
    facts = path.stat()
    try:
        rules = sorted(os.listxattr(path))
    except OSError:  # the file system has none
        rules = []
    return facts.st_dev, facts.st_uid, facts.st_gid, facts.st_mode, *rules


def _write_synced(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_exclusively(path: Path, data: bytes) -> bool:
    """Create a file on a file system without hard links: a crash leaves a short file, which its reader refuses."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        path.unlink()
        raise
    return True
