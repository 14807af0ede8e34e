"""The object store: folders on a disk (file://) or on S3 and compatible servers (s3://).

A published folder is finished when its manifest.json exists; it is written last and never replaced, so a retried stage
finds its first result. One stage writes one folder: two writers at once must write the same bytes.
"""

import functools
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from alignment.contracts.values import folder_digest
from alignment.files.paths import resolve_below
from pipelines.contracts.store import FileEntry, Manifest
from pipelines.settings import Settings
from pipelines.store.disk import DiskBackend, local_path, missing
from pipelines.store.folders import (
    MANIFEST_FILE,
    fetched_files,
    hash_folder,
    in_parallel,
    join_uri,
    locked,
    matches,
    normal_uri,
    parse_manifest,
    partial_path,
    parts_path,
    resumable_path,
    sha256_file,
)

if TYPE_CHECKING:
    from pipelines.store.s3 import S3Backend

__all__ = ["MANIFEST_FILE", "Store", "hash_folder", "open_store", "sha256_file"]


class Store:
    """Reads and writes objects by complete URI (or local path); `uri` makes one under this store's root."""

    def __init__(self, root: str, settings: Settings | None = None) -> None:
        self.root = normal_uri(root)
        self._files = DiskBackend()
        self._endpoint_url = settings.s3_endpoint_url if settings else None

    @functools.cached_property
    def _s3(self) -> "S3Backend":
        from pipelines.store.s3 import S3Backend  # a store on a disk does without

        return S3Backend(self._endpoint_url, self.root)

    def uri(self, *parts: str) -> str:
        """Return the URI of an object or folder under the root; ValueError if a part would leave it."""
        return join_uri(self.root, "/".join(parts))

    def read_bytes(self, uri: str) -> bytes:
        """Read an object completely; ValueError when it does not exist."""
        return self._backend(uri).read(normal_uri(uri))

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Put or replace an object; readers see the old bytes or the new, never a part."""
        self._backend(uri).write(normal_uri(uri), data)

    def create_bytes(self, uri: str, data: bytes) -> bool:
        """Put an object that must never change; False, and nothing written, when it already exists."""
        return self._backend(uri).create(normal_uri(uri), data)

    def exists(self, uri: str) -> bool:
        """Return True when there is an object at exactly this URI."""
        return self._backend(uri).exists(normal_uri(uri))

    def stat(self, uri: str) -> tuple[int, str]:
        """Return an object's size in bytes and a version token that changes with its contents; ValueError when it does
        not exist.

        The token is S3's ETag; on a disk the sha256 up to 64 MiB, above that size and modification time.
        """
        return self._backend(uri).stat(normal_uri(uri))

    def list_uris(self, prefix_uri: str) -> list[str]:
        """List every object in a folder and the folders beneath, sorted; empty when there is no such folder.

        ValueError names an S3 key with the part '..'.
        """
        return self._backend(prefix_uri).list_folder(normal_uri(prefix_uri))

    def delete(self, uri: str) -> None:
        """Remove one object; do nothing when it does not exist."""
        self._backend(uri).delete(normal_uri(uri))

    def remove_abandoned(self, *folders: str) -> int:
        """Delete partial files that killed processes left in these folders of the root, or in all; 0 for S3.

        Returns their number. Those of living processes stay, and those of another host for a day.
        """
        if self.root.startswith("s3://"):
            return 0
        where = [self.uri(folder) for folder in folders] or [self.root]
        return sum(self._files.remove_abandoned(uri) for uri in where)

    def publish_folder(
        self,
        local_dir: Path,
        uri: str,
        value: dict[str, Any],
        exclude: Sequence[str] = (),
        *,
        hashed: dict[str, FileEntry] | None = None,
        move: bool = False,
    ) -> Manifest:
        """Upload a folder and write its manifest last; a folder that is already finished is left unchanged.

        `value` is the stage's value object as JSON. `exclude` names paths, folders or globs, relative to `local_dir`.
        `hashed` are the files of the folder if `hash_folder` has just listed them. `move` allows a store on the same
        disk to take the files instead of copying them; the folder is then no longer complete.
        ValueError names a symbolic link: its target does not belong to the stage.
        """
        finished = self.read_manifest(uri)
        if finished is not None:
            return finished
        files = hash_folder(local_dir, exclude)[1] if hashed is None else hashed
        digest = folder_digest({path: entry.sha256 for path, entry in files.items()})
        backend = self._backend(uri)
        _transfer(
            files,
            lambda path: backend.upload(local_dir / path, join_uri(uri, path), move=move),
            backend.large_bytes,
        )
        manifest = Manifest(content_digest=digest, files=files, value=value)
        if self.create_bytes(join_uri(uri, MANIFEST_FILE), manifest.model_dump_json(indent=1).encode()):
            return manifest
        return self.read_manifest(uri) or manifest

    def read_manifest(self, uri: str) -> Manifest | None:
        """Read the manifest of a finished folder, None while there is none; ValueError when it cannot be trusted."""
        manifest_uri = join_uri(uri, MANIFEST_FILE)
        if not self.exists(manifest_uri):
            return None
        return parse_manifest(self.read_bytes(manifest_uri), manifest_uri)

    def fetch_folder(self, uri: str, local_dir: Path, only: Sequence[str] = ()) -> Manifest:
        """Fetch a published folder to `local_dir`, each file checked against its sha256; a complete one is reused.

        `only` keeps to some paths, folders or globs. manifest.json is put beside the files. A fetch that was cut off
        continues. ValueError when the folder is not finished, its bytes differ from the manifest, or `local_dir`
        contains something else.
        """
        manifest = self.read_manifest(uri)
        if manifest is None:
            raise ValueError(f"{uri} has no {MANIFEST_FILE}: it was never finished. Run the stage that writes it.")
        wanted = {path: entry for path, entry in manifest.files.items() if not only or matches(path, only)}
        if _has_all(local_dir, manifest, wanted):
            return manifest
        with locked(local_dir, folder=True):
            here = _prepared(local_dir, manifest)
            missing_files = {path: entry for path, entry in wanted.items() if path not in here}
            try:
                _transfer(
                    missing_files,
                    lambda path: self._fetch_entry(uri, local_dir, path, missing_files[path]),
                    self._backend(uri).large_bytes,
                )
            except ValueError:
                if not here:
                    shutil.rmtree(local_dir)
                raise
        return manifest

    def fetch_file(self, uri: str, path: Path) -> str:
        """Fetch one object to `path`, completely or not at all; return its sha256.

        A fetch of a large object that was cut off continues.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = resumable_path(path, uri)
        with locked(partial):
            sha256 = self._download(uri, partial)
            _move(partial, path)
        return sha256

    def read_range(self, uri: str, first: int, num_bytes: int, version: str = "") -> tuple[bytes, str]:
        """Read a part of an object, shorter at its end; return it with a token of the object's version.

        ValueError when there is no object, or when it is not of the given version.
        """
        return self._backend(uri).read_range(normal_uri(uri), first, num_bytes, version)

    def hash_object(self, uri: str, version: str) -> str:
        """Return the sha256 of an object, read from end to end; ValueError when it is not of this version."""
        digest = hashlib.sha256()
        for block in self._backend(uri).read_blocks(normal_uri(uri), version):
            digest.update(block)
        return digest.hexdigest()

    def local_path(self, uri: str, scratch: Path) -> Path:
        """Return a local file to read an object from: the object itself on a disk, else fetched into the folder
        `scratch`.
        """
        if normal_uri(uri).startswith("s3://"):
            path = resolve_below(scratch, normal_uri(uri).rpartition("/")[2], uri)
            self.fetch_file(uri, path)
            return path
        if not self.exists(uri):
            raise missing(uri)
        return local_path(normal_uri(uri))

    def _fetch_entry(self, uri: str, folder: Path, path: str, entry: FileEntry) -> None:
        object_uri, target = join_uri(uri, path), folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = resumable_path(target, object_uri)
        continued = parts_path(partial).is_file()
        found = self._download(object_uri, partial, entry.num_bytes)
        if found != entry.sha256 and continued:
            # The host may have lost parts of the file that it had listed as finished.
            _discard(partial)
            found = self._download(object_uri, partial, entry.num_bytes)
        if found != entry.sha256:
            _discard(partial)
            raise ValueError(
                f"{object_uri} has sha256 {found}, its manifest has {entry.sha256}: it was changed or damaged"
                " after it was published. Delete the folder and run the stage that writes it again."
            )
        _move(partial, target)

    def _download(self, uri: str, partial: Path, num_bytes: int | None = None) -> str:
        try:
            self._backend(uri).download(normal_uri(uri), partial, num_bytes)
        except ValueError:
            _discard(partial)
            raise
        return sha256_file(partial)

    def _backend(self, uri: str) -> "DiskBackend | S3Backend":
        plain = normal_uri(uri)
        if plain.startswith("s3://"):
            return self._s3
        if plain.startswith(f"{self.root}/") and ".." in unquote(plain.removeprefix(self.root)).split("/"):
            raise ValueError(f"{uri} does not stay inside {self.root}: it has the part '..'. Remove that part.")
        return self._files


def open_store(uri: str, settings: Settings | None = None) -> Store:
    """Open a store rooted at `file:///...`, a local path or `s3://bucket/prefix`; ValueError for any other scheme."""
    return Store(uri, settings)


def _transfer(files: Mapping[str, FileEntry], move: Callable[[str], None], large_bytes: float) -> None:
    """Move small files several at a time; then large ones one by one, since each moves several parts at a time."""
    large = [path for path, entry in files.items() if entry.num_bytes >= large_bytes]
    in_parallel([functools.partial(move, path) for path in files if path not in large])
    for path in large:
        move(path)


def _has_all(local_dir: Path, manifest: Manifest, wanted: Mapping[str, FileEntry]) -> bool:
    return fetched_files(local_dir, manifest) >= wanted.keys() and (local_dir / MANIFEST_FILE).is_file()


def _prepared(local_dir: Path, manifest: Manifest) -> set[str]:
    """Return files of the manifest that are in a locked folder. The files of another manifest are deleted."""
    here = fetched_files(local_dir, manifest)
    marker = local_dir / MANIFEST_FILE
    if marker.is_file() and parse_manifest(marker.read_bytes(), str(marker)).digest != manifest.digest:
        for entry in local_dir.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    if not marker.is_file():
        partial = partial_path(marker)
        partial.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        partial.replace(marker)
    return here


def _move(partial: Path, path: Path) -> None:
    partial.replace(path)
    parts_path(partial).unlink(missing_ok=True)


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    parts_path(partial).unlink(missing_ok=True)
