"""Single rows of the tensors in a safetensors object of the store, read by range; without torch.

The format: 8 bytes with the length of the header, the header as JSON (name -> dtype, shape, offsets), the tensors.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipelines.store.storage import Store

HEAD_BYTES = 64 * 1024
"""Bytes of the first read: header and, as they are sorted first, tensors of integers."""
PLACE = "place_B"
"""Row of a pair among those of its bucket: 0 in a file of one pair."""


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the header."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    """Offset in the object."""
    num_bytes: int

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.num_bytes // self.shape[0]


@dataclass(frozen=True)
class _Row:
    """One row of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class ShardRows:
    """An object whose tensors have one row per item. A tensor named BUCKET/NAME has those of the bucket only."""

    store: Store
    uri: str
    version: str
    tensors: dict[str, _Tensor]
    small: dict[str, bytes]
    """Tensors of integers, completely."""

    @classmethod
    def open(cls, store: Store, uri: str) -> "ShardRows":
        """Read the header; ValueError when the object is not safetensors."""
        head, version = store.read_range(uri, 0, HEAD_BYTES)
        length = int.from_bytes(head[:8], "little")
        if length > HEAD_BYTES * 256:
            raise ValueError(f"{uri} is not a safetensors file. Delete the folder and run the stage that writes it.")
        if 8 + length > len(head):
            head, version = store.read_range(uri, 0, 8 + length + HEAD_BYTES, version)
        header: dict[str, Any] = json.loads(head[8 : 8 + length])
        header.pop("__metadata__", None)
        tensors = {
            name: _Tensor(
                facts["dtype"],
                tuple(facts["shape"]),
                8 + length + facts["data_offsets"][0],
                facts["data_offsets"][1] - facts["data_offsets"][0],
            )
            for name, facts in header.items()
        }
        small = {name: _cut(store, uri, version, head, tensor=t) for name, t in tensors.items() if t.dtype == "I64"}
        return cls(store, uri, version, tensors, small)

    def integers(self, row: int, *names: str) -> list[int]:
        """Return the row's value of each of these tensors that exists."""
        found = [self.small[name][8 * row : 8 * row + 8] for name in names if name in self.small]
        return [int.from_bytes(data, "little", signed=True) for data in found]

    def row_bytes(self, bucket: str | None) -> int:
        """Return the size of the file of one row, at most."""
        chosen = self._chosen(bucket)
        return sum(tensor.row_bytes for tensor in chosen.values()) + 256 * (len(chosen) + 1)

    def read_row(self, row: int, bucket: str | None) -> dict[str, _Row]:
        """Read a row of every tensor, or of those of its bucket and those that are not of a bucket."""
        place = self.integers(row, PLACE)[0] if bucket is not None else row
        rows = {}
        for name, tensor in self._chosen(bucket).items():
            own = place if "/" in name else row
            rows[name] = _Row(tensor.dtype, (1, *tensor.shape[1:]), self._read(name, tensor, own))
        if PLACE in rows:
            rows[PLACE] = _Row("I64", (1,), bytes(8))
        return rows

    def _read(self, name: str, tensor: _Tensor, row: int) -> bytes:
        size = tensor.row_bytes
        if name in self.small:
            return self.small[name][size * row : size * (row + 1)]
        data, _ = self.store.read_range(self.uri, tensor.first + size * row, size, self.version)
        if len(data) != size:
            raise ValueError(f"{self.uri} is shorter than its header says. Delete the folder and encode again.")
        return data

    def _chosen(self, bucket: str | None) -> dict[str, _Tensor]:
        return {name: t for name, t in self.tensors.items() if "/" not in name or name.startswith(bucket or "/")}


def write_row(path: Path, rows: dict[str, _Row]) -> None:
    """Write a safetensors file of these rows, completely or not at all."""
    header, offset = dict[str, Any](), 0
    for name, row in rows.items():
        assert len(row.data) % max(1, prod(row.shape)) == 0
        header[name] = {"dtype": row.dtype, "shape": row.shape, "data_offsets": (offset, offset + len(row.data))}
        offset += len(row.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(row.data for row in rows.values()))
    partial.replace(path)


def _cut(store: Store, uri: str, version: str, head: bytes, *, tensor: _Tensor) -> bytes:
    end = tensor.first + tensor.num_bytes
    if end <= len(head):
        return head[tensor.first : end]
    return store.read_range(uri, tensor.first, tensor.num_bytes, version)[0]
