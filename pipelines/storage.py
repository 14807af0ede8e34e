"""The object store: folders on a disk (file://) or on S3 and its look-alikes (s3://). The only file that names boto3.

A published folder is finished when its manifest.json is there; it is written last and never replaced, so a retried
stage finds its first answer. One stage writes one folder: two writers at once must write the same bytes.

S3-compatible servers differ. Where one refuses `If-None-Match` we ask whether the object exists and then put it, which
two writers in the same instant can both pass; where one refuses checksum headers we send none and rely on the sha256 in
the manifest. Each is logged once a process. Objects are deleted one by one, since batch deletes need a Content-MD5 on
some servers.
"""

import errno
import fnmatch
import functools
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote

from alignment.contracts import folder_digest
from pipelines.contracts import FileEntry, Manifest
from pipelines.settings import Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
MULTIPART_BYTES = 64 * 1024 * 1024
PARALLEL_TRANSFERS = 8
_PARTIAL = ".partial"
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_REFUSED = {"501", "NotImplemented", "InvalidArgument", "InvalidRequest", "MissingContentLength", "MethodNotAllowed"}
_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchBucket"}


class _Backend(Protocol):
    """What a kind of storage must do; URIs are whole."""

    def read(self, uri: str) -> bytes: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def create(self, uri: str, data: bytes) -> bool: ...
    def exists(self, uri: str) -> bool: ...
    def list(self, uri: str) -> list[str]: ...
    def delete(self, uri: str) -> None: ...
    def upload(self, path: Path, uri: str) -> None: ...
    def download(self, uri: str, path: Path) -> None: ...


class Store:
    """Reads and writes objects by whole URI; `uri` makes one under this store's root."""

    def __init__(self, root: str, settings: Settings | None = None) -> None:
        self.root = _normal_uri(root)
        self._files = _FileBackend()
        self._s3 = _S3Backend(settings.s3_endpoint_url if settings else None)

    def uri(self, *parts: str) -> str:
        """URI of an object or folder under the root; ValueError if a part would climb out of it."""
        path = "/".join(parts)
        _check_relative(path, where=self.root)
        return _join(self.root, path)

    def read_bytes(self, uri: str) -> bytes:
        """The whole object; ValueError when it is not there."""
        return self._backend(uri).read(_normal_uri(uri))

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Put or replace an object; readers see the old bytes or the new, never a part."""
        self._backend(uri).write(_normal_uri(uri), data)

    def create_bytes(self, uri: str, data: bytes) -> bool:
        """Put an object that must never change; False, and nothing written, when it is there already."""
        return self._backend(uri).create(_normal_uri(uri), data)

    def exists(self, uri: str) -> bool:
        """Whether there is an object at exactly this URI."""
        return self._backend(uri).exists(_normal_uri(uri))

    def list_uris(self, prefix_uri: str) -> list[str]:
        """Every object in a folder and the folders beneath, sorted; empty when there is no such folder."""
        return self._backend(prefix_uri).list(_normal_uri(prefix_uri))

    def delete(self, uri: str) -> None:
        """Remove one object; nothing happens when it is not there."""
        self._backend(uri).delete(_normal_uri(uri))

    def publish_folder(self, local_dir: Path, uri: str, value: dict[str, Any], exclude: Sequence[str] = ()) -> Manifest:
        """Upload a folder and write its manifest last; a folder that is finished already is left as it is.

        `value` is the stage's value object as JSON. `exclude` names paths, folders or globs, relative to `local_dir`.
        """
        finished = self.read_manifest(uri)
        if finished is not None:
            return finished
        digest, files = hash_folder(local_dir, exclude)
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            uploads = [
                pool.submit(self._backend(uri).upload, local_dir / path, _join(_normal_uri(uri), path))
                for path in files
            ]
            for upload in uploads:
                upload.result()
        manifest = Manifest(content_digest=digest, files=files, value=value)
        data = manifest.model_dump_json(indent=1).encode()
        if self.create_bytes(_join(_normal_uri(uri), MANIFEST_FILE), data):
            return manifest
        return self.read_manifest(uri) or manifest

    def read_manifest(self, uri: str) -> Manifest | None:
        """The manifest of a finished folder, None while there is none; ValueError when it cannot be trusted."""
        manifest_uri = _join(_normal_uri(uri), MANIFEST_FILE)
        if not self.exists(manifest_uri):
            return None
        return _parse_manifest(self.read_bytes(manifest_uri), manifest_uri)

    def fetch_folder(self, uri: str, local_dir: Path, only: Sequence[str] = ()) -> Manifest:
        """Bring a published folder to `local_dir`, each file checked against its sha256; a complete one is reused.

        `only` keeps to some paths, folders or globs. manifest.json is put beside the files. ValueError when the folder
        is not finished or its bytes are not those of the manifest.
        """
        manifest = self.read_manifest(uri)
        if manifest is None:
            raise ValueError(f"{uri} has no {MANIFEST_FILE}: it was never finished. Run the stage that writes it.")
        wanted = {path: entry for path, entry in manifest.files.items() if not only or _matches(path, only)}
        if _is_complete(local_dir, manifest, wanted):
            return manifest
        local_dir.parent.mkdir(parents=True, exist_ok=True)
        partial = local_dir.parent / f".{local_dir.name}.{uuid.uuid4().hex}{_PARTIAL}"
        try:
            with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
                fetches = [
                    pool.submit(self._fetch_entry, _join(uri, path), partial / path, entry)
                    for path, entry in wanted.items()
                ]
                for fetch in fetches:
                    fetch.result()
            partial.mkdir(parents=True, exist_ok=True)
            (partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
            _swap_in(partial, local_dir, keep=lambda: _is_complete(local_dir, manifest, wanted))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return manifest

    def fetch_file(self, uri: str, path: Path) -> str:
        """Bring one object to `path`, whole or not at all; returns its sha256."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}"
        try:
            self._backend(uri).download(_normal_uri(uri), partial)
            sha256 = sha256_file(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return sha256

    def _fetch_entry(self, uri: str, path: Path, entry: FileEntry) -> None:
        found = self.fetch_file(uri, path)
        if found != entry.sha256:
            raise ValueError(
                f"{uri} has sha256 {found}, its manifest says {entry.sha256}: it was changed or damaged after it was"
                " published. Delete the folder and run the stage that writes it again."
            )

    def _backend(self, uri: str) -> _Backend:
        scheme = _normal_uri(uri).partition("://")[0]
        return self._s3 if scheme == "s3" else self._files


def open_store(uri: str, settings: Settings | None = None) -> Store:
    """A store rooted at `file:///...`, a local path or `s3://bucket/prefix`; ValueError for any other scheme."""
    return Store(uri, settings)


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(path: Path, exclude: Sequence[str] = ()) -> tuple[str, dict[str, FileEntry]]:
    """content_digest of a local folder and its files; a manifest.json at its top and half-written files do not count.

    `exclude` names paths, folders or globs relative to `path`. ValueError when the folder is missing or has no files.
    """
    files: dict[str, FileEntry] = {}
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path).as_posix()
        if not file.is_file() or relative == MANIFEST_FILE or _is_partial(file.name) or _matches(relative, exclude):
            continue
        files[relative] = FileEntry(sha256=sha256_file(file), num_bytes=file.stat().st_size)
    if not files:
        raise ValueError(f"Folder {path} does not exist or holds no files. Check the path.")
    return folder_digest({name: entry.sha256 for name, entry in files.items()}), files


# --- paths and manifests --------------------------------------------------------------------------------------------


def _normal_uri(uri: str) -> str:
    """A local path becomes file://; the trailing slash goes."""
    if "://" not in uri:
        return Path(uri).absolute().as_uri()
    if not uri.startswith(("file://", "s3://")):
        raise ValueError(f"Store URI {uri!r} has an unknown scheme. Use file:///folder, a local path or s3://bucket/key.")
    return uri.rstrip("/")


def _join(uri: str, path: str) -> str:
    uri = _normal_uri(uri)
    return f"{uri}/{quote(path) if uri.startswith('file://') else path}"


def _check_relative(path: str, where: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise ValueError(f"Path {path!r} does not stay inside {where}. Only relative paths without '..' are allowed.")


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a relative path is one of the patterns, lies in one of those folders, or fits a glob."""
    return any(path == p or path.startswith(f"{p.rstrip('/')}/") or fnmatch.fnmatch(path, p) for p in patterns)


def _parse_manifest(data: bytes, uri: str) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(data)
    except ValueError as error:
        raise ValueError(f"{uri} is not a manifest: {error}. Delete the folder and run its stage again.") from error
    for path in manifest.files:
        _check_relative(path, where=uri)
    if manifest.content_digest != folder_digest({path: entry.sha256 for path, entry in manifest.files.items()}):
        raise ValueError(f"{uri} does not add up: its content_digest is not that of its files. Run its stage again.")
    return manifest


def _is_complete(local_dir: Path, manifest: Manifest, wanted: dict[str, FileEntry]) -> bool:
    """Whether a folder fetched earlier holds these files of this manifest; sizes stand for their bytes."""
    marker = local_dir / MANIFEST_FILE
    if not marker.is_file() or _parse_manifest(marker.read_bytes(), str(marker)).digest != manifest.digest:
        return False
    paths = {local_dir / path: entry.num_bytes for path, entry in wanted.items()}
    return all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in paths.items())


def _swap_in(partial: Path, local_dir: Path, keep: Any) -> None:
    """Rename a finished folder into place; an unfinished one there makes way, another fetcher's finished one stays."""
    with suppress(OSError):
        partial.rename(local_dir)
        return
    if keep():
        return
    old = partial.with_name(f"{partial.name}.old{_PARTIAL}")
    local_dir.rename(old)
    try:
        partial.rename(local_dir)
    finally:
        shutil.rmtree(old, ignore_errors=True)
        old.unlink(missing_ok=True) if old.is_file() else None


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PARTIAL)
