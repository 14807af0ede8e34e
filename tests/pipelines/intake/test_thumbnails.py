"""Pictures of images from outside are decoded and encoded again; what is not decoded is named."""

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.intake.thumbnails import thumbnail
from pipelines.project.sections import ValidationSection

LIMITS = ValidationSection(max_image_side=200, max_image_bytes=50_000)


def shown(data: bytes | None, limits: ValidationSection = LIMITS, side: int = 20) -> tuple[Any, str]:
    uri, reason = thumbnail(data, limits, side)
    content = base64.b64decode(uri.partition(",")[2])
    return Image.open(BytesIO(content)) if uri else None, reason


def png_with(payload: bytes, size: tuple[int, int] = (60, 30)) -> bytes:
    stream = BytesIO()
    exif = Image.Exif()
    exif[0x010E] = payload.decode()
    Image.new("RGB", size, "red").save(stream, "PNG", exif=exif)
    return stream.getvalue() + payload


def test_nothing_of_the_original_file_is_left_but_its_pixels() -> None:
    payload = b"<script>alert('secretword')</script>"
    image, reason = shown(png_with(payload))
    assert reason == ""
    assert (image.format, image.size, dict(image.getexif())) == ("JPEG", (20, 10), {})
    image.fp.seek(0)
    assert b"secretword" not in image.fp.read()
    assert max(abs(a - b) for a, b in zip(image.getpixel((5, 5)), (255, 0, 0), strict=True)) <= 3


def test_a_rotated_photograph_is_put_upright() -> None:
    stream = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30), "blue").save(stream, "JPEG", exif=exif)
    assert shown(stream.getvalue())[0].size == (10, 20)


def test_sixteen_bits_are_scaled() -> None:
    stream = BytesIO()
    Image.fromarray(np.full((40, 40), 128 * 256, np.uint16)).save(stream, "PNG")
    assert abs(shown(stream.getvalue())[0].convert("L").getpixel((5, 5)) - 128) <= 2


def test_transparent_pixels_are_white() -> None:
    stream = BytesIO()
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(stream, "PNG")
    assert min(shown(stream.getvalue())[0].getpixel((10, 10))) >= 250


def test_an_image_beyond_a_limit_is_named_and_not_decoded(tiny_image: Callable[..., bytes]) -> None:
    assert shown(tiny_image(1, (201, 40))) == (None, "too long a side")
    assert shown(tiny_image(1), ValidationSection(max_image_bytes=10)) == (None, "too many bytes")
    assert shown(tiny_image(1), ValidationSection(max_image_pixels=10)) == (None, "too many pixels")
    assert shown(tiny_image(1, (40, 40), "GIF")) == (None, "format not allowed")


@pytest.mark.parametrize(
    ("data", "reason"), [(None, "no image"), (b"", "no image"), (b"<svg onload=alert(1)>", "not an image")]
)
def test_bytes_that_are_no_image_are_named(data: bytes | None, reason: str) -> None:
    assert shown(data) == (None, reason)


def test_a_truncated_image_is_named(tiny_image: Callable[..., bytes]) -> None:
    whole = tiny_image(1)
    assert shown(whole[: len(whole) // 2]) == (None, "damaged")
