"""Images that attack a decoder, assembled from bytes."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image


def jpeg_with_scans(num_scans: int, side: int = 64) -> bytes:
    """Return a progressive JPEG whose last scan is repeated: each repetition is a pass over every pixel."""
    stream = BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side), Image.Resampling.NEAREST).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (num_scans - data.count(b"\xff\xda")) + data[-2:]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
