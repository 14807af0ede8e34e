import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipelines.intake.image_facts import image_facts, strict_decoding
from pipelines.project.sections import ValidationSection

LIMITS = ValidationSection()
MakeImage = Callable[..., bytes]


def encode(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", format: str = "PNG") -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and contains almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_facts_of_a_good_image(tiny_image: MakeImage, format: str) -> None:
    data = tiny_image(1, (50, 40), format)
    facts = image_facts(data, LIMITS)
    assert (facts.problem, facts.format, facts.width, facts.height) == ("", format, 50, 40)
    assert (facts.num_bytes, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert facts.perceptual_hash is not None
    assert len(facts.perceptual_hash) == 16


def test_sharpness_and_luminance_are_those_of_the_pixels() -> None:
    flat = image_facts(encode(np.full((40, 40, 3), 200, np.uint8)), LIMITS)
    assert (flat.sharpness, flat.mean_luminance) == (0.0, 200.0)
    # A lone white pixel on black: the Laplacian is -4 * 255 there, 255 at its four neighbours, over 3 x 3 pixels.
    dot = np.zeros((5, 5), np.uint8)
    dot[2, 2] = 255
    spot = image_facts(encode(dot), LIMITS)
    values = np.array([-4 * 255] + [255] * 4 + [0] * 4, float)
    assert spot.sharpness == pytest.approx(values.var())
    assert spot.mean_luminance == pytest.approx(255 / 25)


def test_similar_images_have_similar_hashes() -> None:
    rng = np.random.default_rng(0)
    smooth = np.array(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((600, 600)))
    hashes = [int(str(image_facts(encode(smooth, format), LIMITS).perceptual_hash), 16) for format in ("PNG", "JPEG")]
    other = int(str(image_facts(encode(255 - smooth), LIMITS).perceptual_hash), 16)
    assert (hashes[0] ^ hashes[1]).bit_count() <= 2
    assert (hashes[0] ^ other).bit_count() > 16


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
def test_a_truncated_jpeg_is_damaged_and_a_complete_one_keeps_its_size(progressive: bool, share: float) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, progressive=progressive)
    data = stream.getvalue()
    whole = image_facts(data, LIMITS)
    assert (whole.problem, whole.width, whole.height) == ("", 500, 300)
    grey = np.asarray(Image.open(BytesIO(data)).convert("L"), float)
    assert whole.mean_luminance == pytest.approx(grey.mean(), abs=1.0)
    assert image_facts(data[: int(len(data) * share)], LIMITS).problem == "damaged"


@pytest.mark.parametrize("data", [None, b""])
def test_no_bytes(data: bytes | None) -> None:
    assert image_facts(data, LIMITS).problem == "no_bytes"


@pytest.mark.parametrize("data", [b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0garbage"])
def test_an_unknown_format_is_unidentified(data: bytes) -> None:
    assert image_facts(data, LIMITS).problem == "unidentified"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_image_is_damaged(tiny_image: MakeImage, format: str, share: float) -> None:
    data = tiny_image(1, (64, 64), format)
    facts = image_facts(data[: int(len(data) * share)], LIMITS)
    assert facts.problem in ("damaged", "unidentified")
    assert facts.perceptual_hash is None


def test_limits_are_checked_from_the_header(monkeypatch: pytest.MonkeyPatch, tiny_image: MakeImage) -> None:
    def decoded(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    tight = ValidationSection(max_image_bytes=10_000, max_image_pixels=2_000, max_image_side=60)
    assert image_facts(tiny_image(1, (100, 100)), tight).problem == "too_many_bytes"
    assert image_facts(tiny_image(1, (61, 4)), tight).problem == "too_long_side"
    assert image_facts(tiny_image(1, (50, 50)), tight).problem == "too_many_pixels"
    assert image_facts(tiny_image(1, (8, 8), "GIF"), tight).problem == "format"
    assert image_facts(png_header(8000, 8000), LIMITS).problem == "too_many_pixels"


@pytest.mark.parametrize("side", [9_800, 16_000])
def test_a_decompression_bomb_is_not_opened(side: int) -> None:
    with strict_decoding():
        facts = image_facts(png_header(side, side), LIMITS)
    assert facts.problem == "too_many_pixels"
    assert facts.perceptual_hash is None


def test_strict_decoding_restores_the_warning_filters() -> None:
    before = list(warnings.filters)
    with strict_decoding():
        assert list(warnings.filters) != before
    assert list(warnings.filters) == before


def test_an_animation_has_frames() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    stream = BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    assert image_facts(stream.getvalue(), LIMITS).problem == "frames"
