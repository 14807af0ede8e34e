"""Compute facts from encoded image bytes within hard limits: the header is checked before any pixel is decoded.

Imports no more than a decoding process needs to start quickly.
"""

import hashlib
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin

from alignment.files.images import Ground, is_direct, parse_ground, shown, upright_size

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from pipelines.project.sections import ValidationSection

# Formats that are recognised, to name what a file is; only the project's formats are decoded.
IDENTIFIED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")
# Imported here, these formats are known to Pillow, which would otherwise load all its plugins at the first WebP image.
_PLUGINS = (MpoImagePlugin, TiffImagePlugin, WebPImagePlugin)
FACTS_SIDE = 256
"""Longest side, in pixels, of the grey copy from which sharpness and luminance are computed."""
MAXIMUM_SCANS = 100
"""Largest number of scans of a JPEG. Encoders write about ten; each scan costs a pass over all pixels."""

_PIXELS_TOGETHER = 2**18
"""Pixels whose statistics are computed at once."""
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""A marker that begins a segment or ends the image; within pixel data only restarts and escaped bytes follow 0xff."""

Problem = Literal[
    "",
    "no_bytes",
    "too_many_bytes",
    "unidentified",
    "too_many_pixels",
    "too_long_side",
    "format",
    "frames",
    "damaged",
    "decode_too_slow",
    "decode_failed",
]
"""Reason why an image was not fully decoded; all but no_bytes, unidentified, damaged and decode_* are found without
decoding. decode_failed: the process that decoded it died.
"""


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """Limits of an image, and the ground of its transparent parts; fields as in [validation] of a project."""

    max_image_bytes: int
    max_image_pixels: int
    max_image_side: int
    allowed_formats: tuple[str, ...]
    ground: Ground
    max_decode_seconds: float
    """CPU seconds. Enforced by the process that calls `image_facts`, since a decoder cannot be interrupted."""


class ImageFacts(NamedTuple):
    """Facts about an encoded image. A fact is None where decoding did not get that far."""

    sha256: str
    num_bytes: int
    problem: Problem
    format: str | None = None
    """Pillow's name of the format: JPEG, PNG, WEBP..."""
    width: int | None = None
    """Width in pixels, after the image's orientation is applied where it was decoded."""
    height: int | None = None
    converted: bool | None = None
    """True where people saw other pixels than those stored: orientation, transparency, 16-bit grey or a profile."""
    sharpness: float | None = None
    """Variance of the Laplacian of the grey copy (0 to 255), shrunk by a power of two to at most FACTS_SIDE pixels."""
    mean_luminance: float | None = None
    """0 (black) to 255 (white)."""


def decoding_limits(section: "ValidationSection") -> DecodingLimits:
    """Return the limits that [validation] of a project states."""
    return DecodingLimits(
        max_image_bytes=section.max_image_bytes,
        max_image_pixels=section.max_image_pixels,
        max_image_side=section.max_image_side,
        allowed_formats=section.allowed_formats,
        ground=parse_ground(section.ground),
        max_decode_seconds=section.max_decode_seconds,
    )


class Decoded(NamedTuple):
    """Facts of an image without its statistics, and the grey copy that they are computed from, if it was decoded."""

    facts: ImageFacts
    grey: NDArray[np.uint8] | None = None


def image_facts(data: bytes | None, limits: DecodingLimits) -> ImageFacts:
    """Return facts about encoded bytes. Bad bytes are a `problem`, never an exception.

    Inside `strict_decoding`, Pillow's own warning about decompression bombs counts as too many pixels.
    """
    data = data or b""
    return with_statistics([decode(data, limits, hashlib.sha256(data).hexdigest())])[0]


def decode(data: bytes, limits: DecodingLimits, sha256: str) -> Decoded:
    """Decode encoded bytes, whose digest is `sha256`; see `image_facts`."""
    if not data:
        return Decoded(ImageFacts(sha256, 0, "no_bytes"))
    if len(data) > limits.max_image_bytes:
        return Decoded(ImageFacts(sha256, len(data), "too_many_bytes"))
    try:
        with Image.open(BytesIO(data), formats=IDENTIFIED_FORMATS) as image:
            header = (_format(image), image.width, image.height)
            problem = _header_problem(image, limits) or _scan_problem(image, data)
            if problem:
                return Decoded(ImageFacts(sha256, len(data), problem, *header))
            return _decoded(image, sha256, len(data), ground=limits.ground)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Decoded(ImageFacts(sha256, len(data), "too_many_pixels"))
    except Exception:  # A decoder can raise any exception on hostile bytes; each of them is a fault of the image.
        return Decoded(ImageFacts(sha256, len(data), "unidentified"))


def with_statistics(decoded: Sequence[Decoded]) -> list[ImageFacts]:
    """Return the facts with sharpness and luminance. Copies of one size are measured together, which saves time."""
    copies: dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = {}
    for place, (_, grey) in enumerate(decoded):
        if grey is not None:
            copies.setdefault(grey.shape, []).append((place, grey))
    found = [facts for facts, _ in decoded]
    for shape, own in copies.items():
        step = max(1, _PIXELS_TOGETHER // math.prod(shape))
        for start in range(0, len(own), step):
            places, greys = zip(*own[start : start + step], strict=True)
            for place, sharp, light in zip(places, *_statistics(np.stack(greys)), strict=True):
                found[place] = found[place]._replace(sharpness=sharp, mean_luminance=light)
    return found


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Turn Pillow's DecompressionBombWarning into an error. Enter it once, outside any threads: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decoded(image: "PILImage", sha256: str, num_bytes: int, *, ground: Ground) -> Decoded:
    name, stored = _format(image), image.size
    try:
        size, direct = upright_size(image), is_direct(image)
        grey = _small_grey(image, None if direct else ground)
        pixels = np.frombuffer(grey.tobytes(), np.uint8).reshape(grey.height, grey.width)
    except Exception:  # Truncated or corrupt pixel data; decoders report it with different exceptions.
        return Decoded(ImageFacts(sha256, num_bytes, "damaged", name, *stored))
    return Decoded(ImageFacts(sha256, num_bytes, "", name, *size, converted=not direct), pixels)


def _format(image: "PILImage") -> str | None:
    """Return Pillow's name of the format. A JPEG with further images behind it (MPO) is shown as its first image."""
    return "JPEG" if image.format == "MPO" else image.format


def _header_problem(image: "PILImage", limits: DecodingLimits) -> Problem:
    if _format(image) not in limits.allowed_formats:
        return "format"
    if max(image.size) > limits.max_image_side:
        return "too_long_side"
    if image.width * image.height > limits.max_image_pixels:
        return "too_many_pixels"
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        return "frames"
    return ""


def _scan_problem(image: "PILImage", data: bytes) -> Problem:
    """Find a JPEG with more scans than any encoder writes."""
    # Counting bytes is quick and counts at least the scans: a photo with a film behind it contains more by chance.
    if _format(image) != "JPEG" or data.count(_START_OF_SCAN) <= MAXIMUM_SCANS:
        return ""
    return "decode_too_slow" if _count_scans(data) > MAXIMUM_SCANS else ""


def _count_scans(data: bytes) -> int:
    """Count the scans of a JPEG's first image, segment by segment."""
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) is not None and found.group() != _END_OF_IMAGE:
        scans += found.group() == _START_OF_SCAN
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        place = found.end() + length
    return scans


def _small_grey(image: "PILImage", ground: Ground | None) -> "PILImage":
    """Return a grey copy of at most FACTS_SIDE pixels a side, shrunk by a power of two. `ground` is None for an image
    that needs no conversion. Converting decodes every pixel: a truncated file fails here.

    A JPEG is decoded to luminance only, and a large one at 1/2, 1/4 or 1/8 of its size: every coefficient is still
    read, but few pixels are computed. They are the means of the pixels that they stand for, as `reduce` computes them.
    """
    factor = 1 << (-(-max(image.size) // FACTS_SIDE) - 1).bit_length()
    longest = -(-max(image.size) // factor)
    if ground is None:
        shrink = min(factor, 8)
        image.draft("L", (max(1, image.width // shrink), max(1, image.height // shrink)))
        image.load()
        grey = image if image.mode == "L" else image.convert("L")
    else:
        grey = shown(image, ground).convert("L")
    left = -(-max(grey.size) // longest)
    return grey.reduce(left) if left > 1 else grey


def _statistics(greys_NHW: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return the variance of the Laplacian and the mean of each image.

    All sums are of integers below 2**53, so they are exact, and the same on every processor.
    """
    count, height, width = greys_NHW.shape
    means = greys_NHW.reshape(count, -1).sum(axis=1, dtype=np.int64) / (height * width)
    if min(height, width) < 3:
        return [0.0] * count, means.tolist()
    levels = greys_NHW.astype(np.int16)
    laplacian = levels[:, :-2, 1:-1] + levels[:, 2:, 1:-1]
    laplacian += levels[:, 1:-1, :-2]
    laplacian += levels[:, 1:-1, 2:]
    laplacian -= 4 * levels[:, 1:-1, 1:-1]
    flat = laplacian.reshape(count, -1).astype(np.float64)
    total, squares = flat.sum(axis=1), np.einsum("np,np->n", flat, flat)
    return ((squares - total * (total / flat.shape[1])) / flat.shape[1]).tolist(), means.tolist()
