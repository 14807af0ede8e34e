"""The object store: folders on a disk (file://) or on S3 and compatible servers (s3://). The only file that names
boto3.

A published folder is finished when its manifest.json exists; it is written last and never replaced, so a retried stage
finds its first result. One stage writes one folder: two writers at once must write the same bytes.

S3-compatible servers differ. Where one refuses `If-None-Match` the store checks whether the object exists and then puts
it, which two writers in the same instant can both pass; where one refuses checksum headers it sends none and relies on
the sha256 in the manifest. Each is logged once a process. Objects are deleted one by one, since batch deletes need a
Content-MD5 on some servers.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from alignment.files.paths import resolve_below
from pipelines.contracts.store import FileEntry, Manifest
from pipelines.settings import Settings
from pipelines.store.disk import DiskBackend, local_path, missing
from pipelines.store.folders import (
    MANIFEST_FILE,
    PARALLEL_TRANSFERS,
    fetched_files,
    hash_folder,
    in_parallel,
    join_uri,
    matches,
    normal_uri,
    parse_manifest,
    partial_path,
    sha256_file,
    swap_in,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["MANIFEST_FILE", "Store", "hash_folder", "open_store", "sha256_file"]

log = logging.getLogger(__name__)

MULTIPART_BYTES = 64 * 1024 * 1024
_MISSING = {"404", "NoSuchKey", "NotFound"}
_EXISTS = {"412", "PreconditionFailed"}
_RACED = {"409", "ConditionalRequestConflict"}
_REFUSED = {
    *("501", "NotImplemented", "400", "InvalidArgument", "InvalidRequest", "405", "MethodNotAllowed"),
    *("MissingContentLength", "XAmzContentSHA256Mismatch", "BadDigest", "SignatureDoesNotMatch"),
}
_CONDITION_ATTEMPTS = 5


class Store:
    """Reads and writes objects by complete URI (or local path); `uri` makes one under this store's root."""

    def __init__(self, root: str, settings: Settings | None = None) -> None:
        self.root = normal_uri(root)
        self._files = DiskBackend()
        self._s3 = _S3Backend(settings.s3_endpoint_url if settings else None)

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

    def publish_folder(self, local_dir: Path, uri: str, value: dict[str, Any], exclude: Sequence[str] = ()) -> Manifest:
        """Upload a folder and write its manifest last; a folder that is already finished is left unchanged.

        `value` is the stage's value object as JSON. `exclude` names paths, folders or globs, relative to `local_dir`.
        ValueError names a symbolic link: its target does not belong to the stage.
        """
        finished = self.read_manifest(uri)
        if finished is not None:
            return finished
        digest, files = hash_folder(local_dir, exclude)
        in_parallel([functools.partial(self._backend(uri).upload, local_dir / p, join_uri(uri, p)) for p in files])
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

        `only` keeps to some paths, folders or globs. manifest.json is put beside the files. ValueError when the folder
        is not finished, its bytes differ from the manifest, or `local_dir` contains something else.
        """
        manifest = self.read_manifest(uri)
        if manifest is None:
            raise ValueError(f"{uri} has no {MANIFEST_FILE}: it was never finished. Run the stage that writes it.")
        wanted = {path for path in manifest.files if not only or matches(path, only)}
        here = fetched_files(local_dir, manifest)
        if here >= wanted and (local_dir / MANIFEST_FILE).is_file():
            return manifest
        partial = partial_path(local_dir)
        partial.mkdir(parents=True)
        try:
            entries = {path: manifest.files[path] for path in wanted | here}
            in_parallel([functools.partial(self._fetch_entry, uri, partial, p, entry=e) for p, e in entries.items()])
            (partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
            swap_in(partial, local_dir, lambda: fetched_files(local_dir, manifest) >= wanted)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return manifest

    def fetch_file(self, uri: str, path: Path) -> str:
        """Fetch one object to `path`, completely or not at all; return its sha256."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        try:
            self._backend(uri).download(normal_uri(uri), partial)
            sha256 = sha256_file(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return sha256

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

    def _fetch_entry(self, uri: str, folder: Path, path: str, *, entry: FileEntry) -> None:
        found = self.fetch_file(join_uri(uri, path), folder / path)
        if found != entry.sha256:
            raise ValueError(
                f"{join_uri(uri, path)} has sha256 {found}, its manifest has {entry.sha256}: it was changed or damaged"
                " after it was published. Delete the folder and run the stage that writes it again."
            )

    def _backend(self, uri: str) -> "DiskBackend | _S3Backend":
        plain = normal_uri(uri)
        if plain.startswith("s3://"):
            return self._s3
        if plain.startswith(f"{self.root}/") and ".." in unquote(plain.removeprefix(self.root)).split("/"):
            raise ValueError(f"{uri} does not stay inside {self.root}: it has the part '..'. Remove that part.")
        return self._files


def open_store(uri: str, settings: Settings | None = None) -> Store:
    """Open a store rooted at `file:///...`, a local path or `s3://bucket/prefix`; ValueError for any other scheme."""
    return Store(uri, settings)


# --- S3 and compatible servers --------------------------------------------------------------------------------------


@dataclass
class _Dialect:
    """Features that one server was found not to support, kept for the life of the process."""

    conditional_puts: bool = True
    checksums: bool = True


@functools.cache
def _dialect(endpoint_url: str | None) -> _Dialect:
    return _Dialect()


class _S3Backend:
    """s3:// URIs."""

    def __init__(self, endpoint_url: str | None) -> None:
        self._endpoint_url = endpoint_url
        self._dialect = _dialect(endpoint_url)

    def read(self, uri: str) -> bytes:
        bucket, key = _bucket_and_key(uri)
        with _explained(uri):
            return self._client().get_object(Bucket=bucket, Key=key)["Body"].read()

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = _bucket_and_key(uri)
        with _explained(uri):
            self._send(lambda client: client.put_object(Bucket=bucket, Key=key, Body=data))

    def create(self, uri: str, data: bytes) -> bool:
        # Checked even before a conditional put: some servers accept the condition and ignore it.
        if self.exists(uri):
            return False
        if self._dialect.conditional_puts:
            created = self._create_if_none(uri, data)
            if created is not None:
                return created
        had_checksums = self._dialect.checksums
        self.write(uri, data)
        if self._dialect.conditional_puts and had_checksums == self._dialect.checksums:
            self._dialect.conditional_puts = False
            log.warning(
                "The S3 server at %s refuses If-None-Match: existence is checked before each put. Use only one writer.",
                self._endpoint_url or "AWS",
            )
        return True

    def exists(self, uri: str) -> bool:
        from botocore.exceptions import ClientError

        bucket, key = _bucket_and_key(uri)
        with _explained(uri):
            try:
                self._client().head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if _codes(error) & _MISSING:
                    return False
                raise
        return True

    def stat(self, uri: str) -> tuple[int, str]:
        bucket, key = _bucket_and_key(uri)
        with _explained(uri):
            head = self._client().head_object(Bucket=bucket, Key=key)
        return head["ContentLength"], head["ETag"].strip('"')

    def list_folder(self, uri: str) -> list[str]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        with _explained(uri):
            pages = (
                self._client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(normal_uri(f"s3://{bucket}/{key}") for key in keys if not key.endswith("/"))

    def delete(self, uri: str) -> None:
        bucket, key = _bucket_and_key(uri)
        with _explained(uri):
            self._client().delete_object(Bucket=bucket, Key=key)

    def upload(self, path: Path, uri: str) -> None:
        from boto3.s3.transfer import TransferConfig

        bucket, key = _bucket_and_key(uri)
        config = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES // 4)

        def send(client: "S3Client") -> None:
            with path.open("rb") as stream:
                client.upload_fileobj(stream, bucket, key, Config=config)

        with _explained(uri):
            self._send(send)

    def download(self, uri: str, path: Path) -> None:
        bucket, key = _bucket_and_key(uri)
        with _explained(uri):
            self._client().download_file(bucket, key, str(path))

    def _create_if_none(self, uri: str, data: bytes) -> bool | None:
        """Put on condition that no object exists: True when it was put, None when the server refuses the request."""
        from botocore.exceptions import ClientError

        bucket, key = _bucket_and_key(uri)
        with _explained(uri):
            for attempt in range(_CONDITION_ATTEMPTS):
                try:
                    self._client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    codes = _codes(error)
                    if codes & _EXISTS:
                        return False
                    if codes & _REFUSED:
                        return None
                    if not codes & _RACED or attempt == _CONDITION_ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def _send(self, send: Callable[["S3Client"], object]) -> None:
        """Send with checksums; when the server refuses, send without, and remember it if that works."""
        from botocore.exceptions import ClientError

        try:
            send(self._client())
        except ClientError as error:
            if not self._dialect.checksums or not _codes(error) & _REFUSED:
                raise
            send(_s3_client(self._endpoint_url, checksums=False))
            self._dialect.checksums = False
            log.warning(
                "The S3 server at %s refuses checksums on upload (%s): none are sent, the manifests' sha256 remain.",
                self._endpoint_url or "AWS",
                error,
            )

    def _client(self) -> "S3Client":
        return _s3_client(self._endpoint_url, checksums=self._dialect.checksums)


@functools.cache
def _s3_client(endpoint_url: str | None, *, checksums: bool) -> "S3Client":
    import boto3
    from botocore.config import Config

    when: Any = "when_supported" if checksums else "when_required"
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"total_max_attempts": 4, "mode": "standard"},
        max_pool_connections=4 * PARALLEL_TRANSFERS,
        request_checksum_calculation=when,
        response_checksum_validation=when,
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    return boto3.client("s3", endpoint_url=endpoint_url, config=config)


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise ValueError(f"{uri} names no object. Give s3://bucket/key.")
    return bucket, key


def _codes(error: Any) -> set[str]:
    """Return the S3 code and the HTTP status of a botocore ClientError."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return {str(error.response.get("Error", {}).get("Code", "")), str(status)}


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn botocore's errors into a ValueError where a person must act, a ConnectionError where waiting may help."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError, NoRegionError

    try:
        yield
    except ClientError as error:
        codes = _codes(error)
        if "NoSuchBucket" in codes:
            raise ValueError(f"The bucket of {uri} does not exist. Create it, or set PLUMBLINE_STORE_URI.") from error
        if codes & _MISSING:
            raise missing(uri) from error
        if "403" in codes:
            raise ValueError(
                f"The store refuses access to {uri}: {error}. Check the credentials and the bucket's policy"
                " (s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket), or set PLUMBLINE_STORE_URI."
            ) from error
        raise ConnectionError(f"{uri}: {error}") from error
    except (NoCredentialsError, NoRegionError) as error:
        raise ValueError(f"{uri}: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile.") from error
    except (HTTPClientError, BotoCoreError) as error:
        raise ConnectionError(f"{uri} cannot be reached: {error}. Check AWS_ENDPOINT_URL and the network.") from error
