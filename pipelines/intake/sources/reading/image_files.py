"""Find the encoded bytes of an image that a table holds or names: bytes, a struct, a data URI, a path, or an address.

An image that cannot be had is None: the row then goes to quarantine as having no image. Nothing is decoded here.
"""

import base64
import binascii
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from alignment.files.paths import resolve_below
from pipelines.store.disk import local_path
from pipelines.store.folders import join_uri, normal_uri
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

_MAXIMUM_BYTES = 64 * 1024 * 1024
"""Size from which a file is not read at all; the project's limit on encoded images is checked later, on the rest."""


class ImageFiles:
    """Reads the images of one table. Paths are relative to `folder_uri` or to one of its `subfolders`.

    `fetch` returns the bytes at an https address or raises ValueError; without it no address is fetched.
    """

    def __init__(
        self,
        store: Store,
        folder_uri: str,
        *,
        subfolders: tuple[str, ...] = (),
        fetch: Callable[[str], bytes] | None = None,
    ) -> None:
        self._store, self._fetch = store, fetch
        self._folders = [normal_uri(folder_uri), *(join_uri(folder_uri, own) for own in subfolders if own)]
        self._reasons: Counter[str] = Counter()

    def read(self, value: Any) -> bytes | None:
        """Return the encoded bytes of an image, None where there are none."""
        if isinstance(value, Mapping):
            inside = value.get("bytes")
            return self.read(inside if inside else value.get("path"))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value) or None
        if not isinstance(value, str) or not value.strip():
            return None
        try:
            return self._named(value.strip())
        except (ValueError, OSError) as error:
            self._reasons[_reason(error)] += 1
            log.debug("An image was not read: %s", error)
            return None

    def report(self, name: str) -> None:
        """Log the number of images of a table that were named and not read, by reason, without their names."""
        if self._reasons:
            found = ", ".join(f"{reason} ({count})" for reason, count in self._reasons.most_common(3))
            log.warning("%s: images that could not be read, whose rows go to quarantine: %s.", name, found)

    def _named(self, text: str) -> bytes | None:
        if text.startswith("data:"):
            return _data_uri(text)
        scheme = urlsplit(text).scheme.lower() if "://" in text else ""
        if scheme:
            if scheme not in ("http", "https") or self._fetch is None:
                raise _NotReadError("addresses are not fetched; see fetch_urls")
            return self._fetch(text)
        return self._file(_exported_path(text))

    def _file(self, path: str) -> bytes:
        for folder in self._folders:
            uri = join_uri(folder, path)
            if folder.startswith("file://"):
                resolve_below(local_path(folder), path)
            if self._store.exists(uri):
                if self._store.stat(uri)[0] > _MAXIMUM_BYTES:
                    raise _NotReadError("a file is larger than 64 MiB")
                return self._store.read_bytes(uri)
        raise _NotReadError("no such file in the folder of the table")


class _NotReadError(ValueError):
    """Reason of ours why an image was not read; it names no file."""


def _reason(error: Exception) -> str:
    if isinstance(error, _NotReadError):
        return str(error)
    return "a path leaves the folder of the table, or a file or address cannot be read"


def _data_uri(text: str) -> bytes | None:
    head, _, body = text.partition(",")
    if not head.endswith(";base64"):
        raise _NotReadError("a data URI is not base64")
    try:
        return base64.b64decode(body, validate=True) or None
    except binascii.Error as error:
        raise _NotReadError("a data URI is not base64") from error


def _exported_path(text: str) -> str:
    """Return the path below the folder for a file as Label Studio names it, other paths unchanged."""
    if text.startswith("/data/local-files/"):
        return unquote(parse_qs(urlsplit(text).query).get("d", [""])[0])
    return unquote(text.removeprefix("/data/")) if text.startswith("/data/upload/") else text.removeprefix("./")
