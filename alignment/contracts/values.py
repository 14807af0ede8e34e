"""Value objects that a GPU job reads or writes. Torch-free, frozen, plain JSON.

They hold URIs and digests, never payloads. There are two kinds of digest: `digest` of the object itself (sha256 of its
canonical JSON) and `content_digest` of a folder of files (sha256 over its sorted "path sha256" lines; see
`folder_digest`).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from alignment.catalogues.record import Record

__all__ = [
    "NotNegative",
    "NumberFormat",
    "PositiveInt",
    "Record",
    "Sha256",
    "Share",
    "ValueObject",
    "canonical_json",
    "folder_digest",
]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]
NumberFormat = Literal["fp32", "bf16"]
"""Format of stored or computed numbers. There is no fp16, because SDXL's VAE overflows in it."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Any) -> str:
    """Return the text that a digest is computed from: keys sorted, no white space."""
    return _CANONICAL.encode(value)


class ValueObject(Record):
    """A record whose identity is the sha256 of its canonical JSON."""

    schema_version: int = 1
    """Incremented when a field changes meaning, or when the same fields produce different numbers."""

    @property
    def digest(self) -> str:
        """Return the sha256 of the canonical JSON: keys sorted, no white space, UTF-8."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()


def folder_digest(sha256_by_path: Mapping[str, str]) -> str:
    """Return a folder's identity: sha256 over "path sha256" lines, sorted, with relative paths and forward slashes."""
    lines = "".join(f"{path} {sha256_by_path[path]}\n" for path in sorted(sha256_by_path))
    return hashlib.sha256(lines.encode()).hexdigest()
