"""Objects on S3 and compatible servers: the s3:// backend of the store.

S3-compatible servers differ. The store relies on conditional writes (`If-None-Match: *`): the ledger and every numbered
series lose an entry when two writers take one number. A server that refuses or ignores the condition is therefore
refused before the first such write. Where a server refuses checksum headers none are sent, and the sha256 in the
manifests remains; this is logged once a process. Objects are deleted one by one, since batch deletes need a Content-MD5
on some servers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.store import s3_parts
from pipelines.store.disk import changed
from pipelines.store.folders import normal_uri
from pipelines.store.s3_client import (
    MISSING,
    S3Connection,
    bucket_and_key,
    error_codes,
    explained,
    read_again,
)
from pipelines.store.s3_parts import download_file, upload_file

_BLOCK_BYTES = 1024 * 1024
PROBE = "probe/conditional-write"
"""Key below the store's root with which conditional writes are tried. It is written once and never changes."""
_EXISTS = {"412", "PreconditionFailed"}
_RACED = {"409", "ConditionalRequestConflict"}
_UNCONDITIONAL = {"501", "NotImplemented", "405", "MethodNotAllowed", "InvalidArgument", "InvalidRequest"}
_CONDITION_ATTEMPTS = 5


class S3Backend:
    """s3:// URIs. `root` is the store's root, in which conditional writes are tried."""

    def __init__(self, endpoint_url: str | None, root: str) -> None:
        self._connection = S3Connection(endpoint_url)
        self._root = root

    @property
    def large_bytes(self) -> int:
        """Size from which a file moves alone, several of its parts at a time."""
        return s3_parts.MULTIPART_BYTES

    def read(self, uri: str) -> bytes:
        bucket, key = bucket_and_key(uri)
        with explained(uri):
            return read_again(lambda: self._connection.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = bucket_and_key(uri)
        with explained(uri):
            self._connection.send(lambda client: client.put_object(Bucket=bucket, Key=key, Body=data))

    def create(self, uri: str, data: bytes) -> bool:
        self._require_conditions(uri)
        return self._put_if_none(uri, data)

    def exists(self, uri: str) -> bool:
        from botocore.exceptions import ClientError

        bucket, key = bucket_and_key(uri)
        with explained(uri):
            try:
                self._connection.client.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if error_codes(error) & MISSING:
                    return False
                raise
        return True

    def stat(self, uri: str) -> tuple[int, str]:
        bucket, key = bucket_and_key(uri)
        with explained(uri):
            head = self._connection.client.head_object(Bucket=bucket, Key=key)
        return head["ContentLength"], head["ETag"].strip('"')

    def list_folder(self, uri: str) -> list[str]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        with explained(uri):
            pages = self._connection.client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{prefix}/" if prefix else ""
            )
            keys = [entry.get("Key", "/") for page in pages for entry in page.get("Contents", [])]
        return sorted(normal_uri(f"s3://{bucket}/{key}") for key in keys if not key.endswith("/"))

    def delete(self, uri: str) -> None:
        bucket, key = bucket_and_key(uri)
        with explained(uri):
            self._connection.client.delete_object(Bucket=bucket, Key=key)

    def upload(self, path: Path, uri: str, *, move: bool = False) -> None:
        with explained(uri):
            upload_file(self._connection, path, *bucket_and_key(uri))

    def download(self, uri: str, path: Path, num_bytes: int | None = None) -> None:
        with explained(uri):
            download_file(self._connection, *bucket_and_key(uri), path=path, num_bytes=num_bytes)

    def read_range(self, uri: str, first: int, num_bytes: int, version: str) -> tuple[bytes, str]:
        bucket, key = bucket_and_key(uri)
        request: Any = {"Bucket": bucket, "Key": key, "Range": f"bytes={first}-{first + num_bytes - 1}"}
        if version:
            request["IfMatch"] = version

        def get() -> tuple[bytes, str]:
            answer = self._connection.unchecked_client.get_object(**request)
            if version not in ("", answer["ETag"]):
                raise changed(uri)  # the server ignores the condition
            return answer["Body"].read(), answer["ETag"]

        with explained(uri), _same_version(uri):
            return read_again(get)

    def read_blocks(self, uri: str, version: str) -> Iterator[bytes]:
        bucket, key = bucket_and_key(uri)
        with explained(uri), _same_version(uri):
            answer = self._connection.client.get_object(Bucket=bucket, Key=key, IfMatch=version)
            if answer["ETag"] != version:
                raise changed(uri)  # the server ignores the condition
            yield from answer["Body"].iter_chunks(_BLOCK_BYTES)

    def _require_conditions(self, uri: str) -> None:
        """Raise ValueError when the server does not honour conditional writes; asked once per process and bucket."""
        bucket, _ = bucket_and_key(uri)
        if bucket in self._connection.facts.conditional:
            return
        folder = self._root if uri.startswith(f"{self._root}/") else uri.rpartition("/")[0]
        probe = f"{folder}/{PROBE}"
        # The object always has the same bytes. In a store that was used before, the first put is refused.
        if self._put_if_none(probe, PROBE.encode()) and self._put_if_none(probe, PROBE.encode()):
            raise self._unconditional(uri, "ignores the condition and replaces the object")
        self._connection.facts.conditional.add(bucket)

    def _put_if_none(self, uri: str, data: bytes) -> bool:
        """Put on condition that no object exists; False when one does."""
        from botocore.exceptions import ClientError

        bucket, key = bucket_and_key(uri)
        with explained(uri):
            for attempt in range(_CONDITION_ATTEMPTS):
                try:
                    self._connection.send(
                        lambda client: client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                    )
                    return True
                except ClientError as error:
                    codes = error_codes(error)
                    if codes & _EXISTS:
                        return False
                    if codes & _UNCONDITIONAL:
                        raise self._unconditional(uri, f"answers {error}") from error
                    if not codes & _RACED or attempt == _CONDITION_ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def _unconditional(self, uri: str, behaviour: str) -> ValueError:
        return ValueError(
            f"The S3 server at {self._connection.name} does not honour conditional writes: asked to put {uri} only if"
            f" there is no such object (If-None-Match: *), it {behaviour}. Two writers at once would lose entries"
            " of the ledger, so nothing was written. Use a server that honours them; docs/storage.md lists some."
        )


@contextmanager
def _same_version(uri: str) -> Iterator[None]:
    """Turn a condition on the version that does not hold into a ValueError."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error_codes(error) & _EXISTS:
            raise changed(uri) from error
        raise
