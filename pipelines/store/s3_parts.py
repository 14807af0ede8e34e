"""Large files to and from S3 in parts, several at a time. A transfer that was cut off continues with the missing parts.

An unfinished upload is found at the server, and its parts are compared with the file, so any process may continue it.
A download lists its finished parts beside the partial file, with the object's ETag, so that no two versions are mixed.
"""

import base64
import functools
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.store.folders import in_parallel, parts_path
from pipelines.store.s3_client import MISSING, REFUSED, S3Connection, error_codes, read_again

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

log = logging.getLogger(__name__)

MULTIPART_BYTES = 64 * 1024 * 1024
"""Size from which a file goes in parts."""
PART_BYTES = 16 * 1024 * 1024
"""Size of a part; larger where a file would have more than MAXIMUM_PARTS. AWS allows 5 MiB to 5 GiB."""
MAXIMUM_PARTS = 10_000
_UPLOAD_GONE = {"NoSuchUpload"}


def upload_file(connection: S3Connection, path: Path, bucket: str, key: str) -> None:
    """Put a file. One of MULTIPART_BYTES or more goes in parts and continues an upload that was cut off."""
    if path.stat().st_size < MULTIPART_BYTES:
        with path.open("rb") as stream:
            connection.send(lambda client: client.put_object(Bucket=bucket, Key=key, Body=_rewound(stream)))
        return
    upload = _Upload(connection, path, bucket, key)
    if not upload.is_uploaded():
        upload.run()


def download_file(connection: S3Connection, bucket: str, key: str, *, path: Path, num_bytes: int | None = None) -> None:
    """Get an object. One of MULTIPART_BYTES or more goes in ranges, and continues what an earlier call left at `path`.

    `num_bytes` is its size, if known, which saves a request for a small one. Only one process at a time may download to
    a path. The caller deletes `parts_path(path)` when it has moved the file.
    """
    if num_bytes is None or num_bytes >= MULTIPART_BYTES:
        head = connection.client.head_object(Bucket=bucket, Key=key)
        if head["ContentLength"] >= MULTIPART_BYTES:
            _Download(connection, bucket, key, path, head["ContentLength"], head["ETag"]).run()
            return

    def get() -> None:
        body = connection.client.get_object(Bucket=bucket, Key=key)["Body"]
        with path.open("wb") as stream:
            shutil.copyfileobj(body, stream, length=1024 * 1024)

    read_again(get)


@dataclass(frozen=True)
class _Part:
    """A contiguous piece of a file; numbers begin at 1."""

    number: int
    first: int
    num_bytes: int

    def read(self, path: Path) -> bytes:
        """Read the piece from a file."""
        with path.open("rb") as stream:
            stream.seek(self.first)
            return stream.read(self.num_bytes)


def _parts(size: int) -> list[_Part]:
    part_bytes = max(PART_BYTES, -(-size // MAXIMUM_PARTS))
    firsts = range(0, size, part_bytes)
    return [_Part(number, first, min(part_bytes, size - first)) for number, first in enumerate(firsts, start=1)]


def _rewound(stream: Any) -> Any:
    stream.seek(0)
    return stream


# --- upload ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Upload:
    """One file on its way to one key."""

    connection: S3Connection
    path: Path
    bucket: str
    key: str

    def is_uploaded(self) -> bool:
        """Return True when the object is there already, uploaded in the same parts."""
        from botocore.exceptions import ClientError

        size = self.path.stat().st_size
        try:
            head = self.connection.client.head_object(Bucket=self.bucket, Key=self.key)
        except ClientError as error:
            if error_codes(error) & MISSING:
                return False
            raise
        return head["ContentLength"] == size and head["ETag"].strip('"') == self._etag_of_whole(_parts(size))

    def run(self) -> None:
        """Upload the parts that the server lacks and complete the object.

        When the unfinished upload is gone, another process that writes the same file completed it, or a lifecycle rule
        aborted it; then the file is uploaded from the start unless the object is there.
        """
        from botocore.exceptions import ClientError

        upload_id, there = self._unfinished()
        if upload_id is not None:
            try:
                client = self.connection.client if there.checksums else self.connection.unchecked_client
                self._fill(client, upload_id, there)
                return
            except ClientError as error:
                if not error_codes(error) & (_UPLOAD_GONE | REFUSED):
                    raise
                log.info("The unfinished upload of s3://%s/%s cannot be continued: %s", self.bucket, self.key, error)
            if self.is_uploaded():
                return
        self.connection.send(self._upload_everything)

    def _upload_everything(self, client: "S3Client") -> None:
        checksums: Any = {"ChecksumAlgorithm": "CRC32"} if client is not self.connection.unchecked_client else {}
        created = client.create_multipart_upload(Bucket=self.bucket, Key=self.key, **checksums)
        self._fill(client, created["UploadId"], _PartsThere(bool(checksums), {}))

    def _fill(self, client: "S3Client", upload_id: str, there: "_PartsThere") -> None:
        """Upload the parts that are not there, and complete the object."""
        parts = _parts(self.path.stat().st_size)
        done: dict[int, CompletedPartTypeDef] = {}
        send = functools.partial(self._send_part, client, upload_id, there=there, done=done)
        in_parallel([functools.partial(send, part) for part in parts])
        client.complete_multipart_upload(
            Bucket=self.bucket,
            Key=self.key,
            UploadId=upload_id,
            MultipartUpload={"Parts": [done[part.number] for part in parts]},
        )

    def _send_part(
        self,
        client: "S3Client",
        upload_id: str,
        part: _Part,
        *,
        there: "_PartsThere",
        done: "dict[int, CompletedPartTypeDef]",
    ) -> None:
        data = part.read(self.path)
        found = there.parts.get(part.number)
        checksum: Any = {"ChecksumCRC32": _crc32(data)} if there.checksums else {}
        if found is None or not _holds(found, data):
            found = client.upload_part(
                Bucket=self.bucket, Key=self.key, UploadId=upload_id, PartNumber=part.number, Body=data, **checksum
            )
        own: CompletedPartTypeDef = {"PartNumber": part.number, "ETag": found["ETag"]}
        own.update(checksum)
        done[part.number] = own

    def _unfinished(self) -> "tuple[str | None, _PartsThere]":
        """Return the newest unfinished upload of this key and its parts; None where the server cannot list them."""
        from botocore.exceptions import ClientError

        client, nothing = self.connection.client, _PartsThere(False, {})
        try:
            uploads = client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.key).get("Uploads", [])
            own = [upload for upload in uploads if upload.get("Key") == self.key]
            if not own:
                return None, nothing
            newest: str = max(own, key=lambda upload: str(upload.get("Initiated"))).get("UploadId", "")
            pages = list(client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=self.key, UploadId=newest))
        except ClientError as error:
            if error_codes(error) & (REFUSED | _UPLOAD_GONE | {"403"}):
                log.info("Unfinished uploads of s3://%s/%s cannot be listed: %s", self.bucket, self.key, error)
                return None, nothing
            raise
        parts = {part.get("PartNumber", 0): part for page in pages for part in page.get("Parts", [])}
        checksums = any(page.get("ChecksumAlgorithm") == "CRC32" for page in pages)
        log.info("Continuing the upload of s3://%s/%s: %d parts are there", self.bucket, self.key, len(parts))
        return newest, _PartsThere(checksums, parts)

    def _etag_of_whole(self, parts: Iterable[_Part]) -> str:
        """Return the ETag that S3 gives an object of these parts: an MD5 over the parts' MD5s, and their number."""
        digests = [_md5(part.read(self.path)).digest() for part in parts]
        return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"


@dataclass(frozen=True)
class _PartsThere:
    """The parts of an unfinished upload at the server."""

    checksums: bool
    """True when the upload was started with checksums, which every part then needs."""
    parts: dict[int, Any]
    """Parts by number, as ListParts describes them."""


def _holds(found: Any, data: bytes) -> bool:
    """Return True when a part at the server is these bytes. With KMS encryption its ETag is not an MD5."""
    if found["Size"] != len(data):
        return False
    if "ChecksumCRC32" in found:
        return bool(found["ChecksumCRC32"] == _crc32(data))
    return bool(found["ETag"].strip('"') == _md5(data).hexdigest())


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _md5(data: bytes) -> Any:
    return hashlib.md5(data, usedforsecurity=False)


# --- download -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Download:
    """One object on its way to one path."""

    connection: S3Connection
    bucket: str
    key: str
    path: Path
    size: int
    etag: str

    def run(self) -> None:
        """Get the ranges that the path lacks."""
        parts = _parts(self.size)
        notes, identity = parts_path(self.path), json.dumps([self.etag, self.size, parts[0].num_bytes])
        done = self._noted(notes, identity)
        if not done:
            self.path.write_bytes(b"")
            notes.write_text(f"{identity}\n", encoding="utf-8")
        else:
            log.info("Continuing the download of s3://%s/%s: %d parts are here", self.bucket, self.key, len(done))
        with self.path.open("r+b") as stream, notes.open("ab", buffering=0) as journal:
            stream.truncate(self.size)
            missing = [part for part in parts if part.number not in done]
            in_parallel([functools.partial(self._get_part, part, stream.fileno(), journal) for part in missing])

    def _noted(self, notes: Path, identity: str) -> set[int]:
        """Return the finished parts, if they are of the same version of the object."""
        if not notes.is_file() or not self.path.is_file() or self.path.stat().st_size != self.size:
            return set()
        first, *lines = notes.read_text(encoding="utf-8").splitlines(keepends=True)
        if first != f"{identity}\n":
            return set()
        return {int(line) for line in lines if line.endswith("\n")}

    def _get_part(self, part: _Part, descriptor: int, journal: Any) -> None:
        request: Any = {
            "Bucket": self.bucket,
            "Key": self.key,
            "IfMatch": self.etag,
            "Range": f"bytes={part.first}-{part.first + part.num_bytes - 1}",
        }
        data = read_again(lambda: self.connection.unchecked_client.get_object(**request)["Body"].read())
        if len(data) != part.num_bytes:
            raise ConnectionError(
                f"s3://{self.bucket}/{self.key}: {part.num_bytes} bytes were asked for, {len(data)} came. Run it again."
            )
        os.pwrite(descriptor, data, part.first)
        journal.write(b"%d\n" % part.number)
