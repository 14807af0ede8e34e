"""Value objects of the store: the manifest of a finished folder."""

from typing import Any

from alignment.contracts.values import Record, Sha256, ValueObject


class FileEntry(Record):
    """One file of a published folder."""

    sha256: Sha256
    num_bytes: int


class Manifest(ValueObject):
    """manifest.json, written last: present means the folder is finished."""

    content_digest: Sha256
    """folder_digest over `files`; manifest.json itself is not among them."""
    files: dict[str, FileEntry]
    """Relative path, forward slashes, to what it holds."""
    value: dict[str, Any]
    """The stage's value object as JSON, so that a retry can give its first answer."""
