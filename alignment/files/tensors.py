"""Write safetensors files so that equal tensors give equal bytes.

The library's own writer orders the entries of `__metadata__` at random, which would change the weights digest, and
makes files readable by their owner alone, which breaks shared stores. Reading uses the library.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from alignment.files.durable import named_errors

DTYPE_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    read: Callable[[Tensor], Tensor] = Tensor.detach,
    digest: "hashlib._Hash | None" = None,
) -> None:
    """Write `path` in the safetensors format, names and metadata sorted. OSError names the path on a full disk.

    `read` returns a tensor's values when its turn comes, for tensors that are gathered from several processes.
    `digest` takes in every byte as it is written.
    """
    names = sorted(tensors)
    with named_errors(path), path.open("wb") as file:
        for piece in _pieces(names, tensors, metadata or {}, read):
            file.write(piece)
            if digest is not None:
                digest.update(piece)


def _pieces(
    names: list[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    read: Callable[[Tensor], Tensor],
) -> Iterator[bytes | memoryview]:
    """Give the bytes of the file in their order: the header, then one tensor after the other."""
    yield _header(names, tensors, metadata)
    for name in names:
        flat = read(tensors[name]).detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _header(names: list[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length (8 bytes, little endian) and JSON, padded with spaces so the data begins at a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items()))}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPE_CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
