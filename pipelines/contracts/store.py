"""Value objects of the store: the manifest of a finished folder."""

from typing import Any

from alignment.contracts.values import Record, Sha256, ValueObject


class FileEntry(Record):
    """One file of a published folder."""

    sha256: Sha256
    num_bytes: int


class Manifest(ValueObject):
    """Contents of manifest.json. It is written last, so a folder with a manifest is complete."""

    content_digest: Sha256
    """folder_digest of `files`, which do not include manifest.json."""
    files: dict[str, FileEntry]
    """Files by relative path, with forward slashes."""
    value: dict[str, Any]
    """Value object of the stage as JSON, which a retry returns again."""
