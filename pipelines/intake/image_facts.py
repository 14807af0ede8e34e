"""Compute facts from encoded image bytes within hard limits: the header is checked before any pixel is decoded."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.project.sections import ValidationSection

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

# Formats that are recognised, to name what a file is; only the project's formats are decoded.
IDENTIFIED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")
FACTS_SIDE = 256
"""Longest side, in pixels, of the grey copy from which sharpness and the perceptual hash are computed."""

Problem = Literal[
    "", "no_bytes", "too_many_bytes", "unidentified", "too_many_pixels", "too_long_side", "format", "frames", "damaged"
]
"""Reason why an image was not fully decoded; all but no_bytes, unidentified and damaged are found without decoding."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about an encoded image. A fact is None where decoding did not get that far."""

    sha256: str
    num_bytes: int
    problem: Problem
    format: str | None = None
    """Pillow's name of the format: JPEG, PNG, WEBP..."""
    width: int | None = None
    height: int | None = None
    perceptual_hash: str | None = None
    """64-bit DCT hash, 16 hexadecimal digits."""
    sharpness: float | None = None
    """Variance of the Laplacian of the grey copy (0 to 255), after shrinking to at most FACTS_SIDE pixels a side."""
    mean_luminance: float | None = None
    """0 (black) to 255 (white)."""


def image_facts(data: bytes | None, limits: ValidationSection) -> ImageFacts:
    """Return facts about encoded bytes. Bad bytes are a `problem`, never an exception.

    Inside `strict_decoding`, Pillow's own warning about decompression bombs counts as too many pixels.
    """
    data = data or b""
    sha256 = hashlib.sha256(data).hexdigest()
    if not data:
        return ImageFacts(sha256, 0, "no_bytes")
    if len(data) > limits.max_image_bytes:
        return ImageFacts(sha256, len(data), "too_many_bytes")
    try:
        with Image.open(BytesIO(data), formats=IDENTIFIED_FORMATS) as image:
            return _facts_of(image, sha256, len(data), limits=limits)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return ImageFacts(sha256, len(data), "too_many_pixels")
    except Exception:  # A decoder can raise any exception on hostile bytes; each of them is a fault of the image.
        return ImageFacts(sha256, len(data), "unidentified")


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Turn Pillow's DecompressionBombWarning into an error. Enter it once, outside any threads: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _facts_of(image: "PILImage", sha256: str, num_bytes: int, *, limits: ValidationSection) -> ImageFacts:
    header = (image.format, image.width, image.height)
    problem = _header_problem(image, limits)
    if problem:
        return ImageFacts(sha256, num_bytes, problem, *header)
    try:
        grey = _small_grey(image)
    except Exception:  # As above: truncated or corrupt pixel data; decoders report it with different exceptions.
        return ImageFacts(sha256, num_bytes, "damaged", *header)
    pixels = np.asarray(grey, dtype=np.float32)
    return ImageFacts(
        sha256,
        num_bytes,
        "",
        *header,
        perceptual_hash=_perceptual_hash(grey),
        sharpness=_laplacian_variance(pixels),
        mean_luminance=float(pixels.mean(dtype=np.float64)),
    )


def _header_problem(image: "PILImage", limits: ValidationSection) -> Problem:
    if image.format not in limits.allowed_formats:
        return "format"
    if max(image.size) > limits.max_image_side:
        return "too_long_side"
    if image.width * image.height > limits.max_image_pixels:
        return "too_many_pixels"
    if getattr(image, "n_frames", 1) > 1:
        return "frames"
    return ""


def _small_grey(image: "PILImage") -> "PILImage":
    """Return a grey copy of at most FACTS_SIDE pixels a side. Converting decodes every pixel: a truncated file fails
    here.

    A JPEG is decoded to luminance only: every coefficient is still read, at half the cost of decoding colours.
    """
    image.draft("L", image.size)
    grey = image.convert("L")
    factor = -(-max(grey.size) // FACTS_SIDE)
    return grey.reduce(factor) if factor > 1 else grey


def _perceptual_hash(grey: "PILImage") -> str:
    import imagehash

    return str(imagehash.phash(grey))


def _laplacian_variance(pixels: NDArray[np.float32]) -> float:
    if min(pixels.shape) < 3:
        return 0.0
    middle = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * middle
    return float(laplacian.var(dtype=np.float64))
