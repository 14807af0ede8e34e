"""Frames on a pipe between the pool and a worker: eight bytes of length, then the content."""

import struct
from typing import BinaryIO

_LENGTH = struct.Struct(">Q")


def write_frame(sink: BinaryIO, content: bytes | memoryview) -> None:
    """Write one frame. The caller flushes."""
    sink.write(_LENGTH.pack(len(content)))
    sink.write(content)


def read_frame(source: BinaryIO) -> bytes | None:
    """Return the next frame; None when the other process has closed the pipe or died within a frame."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = source.read(length)
    return content if len(content) == length else None
