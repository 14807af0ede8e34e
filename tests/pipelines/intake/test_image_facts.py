import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hostile_images import jpeg_with_scans, png_chunk
from PIL import Image

from pipelines.intake.image_facts import (
    MAXIMUM_SCANS,
    decode,
    decoding_limits,
    image_facts,
    strict_decoding,
    with_statistics,
)
from pipelines.project.sections import ValidationSection

LIMITS = decoding_limits(ValidationSection())
MakeImage = Callable[..., bytes]


def encode(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", format: str = "PNG") -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and contains almost no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(b"")), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_facts_of_a_good_image(tiny_image: MakeImage, format: str) -> None:
    data = tiny_image(1, (50, 40), format)
    facts = image_facts(data, LIMITS)
    assert (facts.problem, facts.format, facts.width, facts.height) == ("", format, 50, 40)
    assert (facts.num_bytes, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert facts.converted is False


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


def test_images_of_several_sizes_have_the_facts_that_each_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    sizes = [(40, 50), (33, 2), (40, 50), (90, 40), (40, 50), (1, 1)]
    images = [encode(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
    images[3:3] = [b"junk", b""]
    alone = [image_facts(data, LIMITS) for data in images]
    monkeypatch.setattr("pipelines.intake.image_facts._PIXELS_TOGETHER", 2 * 40 * 50)
    digests = [hashlib.sha256(data).hexdigest() for data in images]
    decoded = [decode(data, LIMITS, digest) for data, digest in zip(images, digests, strict=True)]
    assert with_statistics(decoded) == alone
    assert len({facts.mean_luminance for facts in alone}) == 7


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
    assert facts.sharpness is None


def test_limits_are_checked_from_the_header(monkeypatch: pytest.MonkeyPatch, tiny_image: MakeImage) -> None:
    def decoded(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    tight = decoding_limits(ValidationSection(max_image_bytes=10_000, max_image_pixels=2_000, max_image_side=60))
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
    assert facts.sharpness is None


def test_strict_decoding_restores_the_warning_filters() -> None:
    before = list(warnings.filters)
    with strict_decoding():
        assert list(warnings.filters) != before
    assert list(warnings.filters) == before


def test_a_jpeg_with_further_images_behind_it_is_the_first_of_them() -> None:
    """Phones write such files (MPO) for depth and for the other eye; a browser shows the first image."""
    first, second = (Image.new("RGB", (50, 40), colour) for colour in ("white", "black"))
    stream = BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[second])
    with Image.open(BytesIO(stream.getvalue())) as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)  # type: ignore[attr-defined]
    facts = image_facts(stream.getvalue(), LIMITS)
    assert (facts.problem, facts.format, facts.width, facts.height) == ("", "JPEG", 50, 40)
    assert (facts.mean_luminance, facts.converted) == (255, False)
    without_jpeg = replace(LIMITS, allowed_formats=("PNG",))
    assert image_facts(stream.getvalue(), without_jpeg).problem == "format"
    assert image_facts(stream.getvalue()[:-100], LIMITS).problem == "", "the second image is not looked at"


def test_an_animation_has_frames() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    stream = BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    assert image_facts(stream.getvalue(), LIMITS).problem == "frames"


def test_a_jpeg_with_more_scans_than_an_encoder_writes_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = jpeg_with_scans(MAXIMUM_SCANS), jpeg_with_scans(5_000)
    film = b"\xff\xda" * 500
    assert [image_facts(data, LIMITS).problem for data in (few, few + film)] == ["", ""]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    facts = image_facts(many, LIMITS)
    assert (facts.problem, facts.width, facts.height, facts.sharpness) == ("decode_too_slow", 64, 64, None)


def test_facts_are_those_of_the_image_as_people_saw_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = BytesIO()
    Image.new("RGB", (40, 50), (90, 90, 90)).save(stream, "JPEG", exif=exif.tobytes())
    turned = image_facts(stream.getvalue(), LIMITS)
    assert (turned.width, turned.height, turned.converted) == (50, 40, True)
    clear = encode(np.zeros((40, 40, 4), np.uint8))
    assert image_facts(clear, LIMITS).mean_luminance == 255.0
    assert image_facts(clear, replace(LIMITS, ground=(51, 51, 51))).mean_luminance == 51.0
    deep = BytesIO()
    Image.fromarray(np.full((40, 40), 32768, np.uint16)).save(deep, "PNG")
    facts = image_facts(deep.getvalue(), LIMITS)
    assert (facts.problem, facts.converted, facts.mean_luminance) == ("", True, 128.0)


@pytest.mark.parametrize("side", [256, 512, 700, 1030, 2050])
def test_a_jpeg_decoded_at_reduced_size_has_the_facts_of_its_pixels(side: int) -> None:
    coarse = np.random.default_rng(5).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    jpeg = encode(np.array(Image.fromarray(coarse).resize((side, side))), "JPEG")
    found = image_facts(jpeg, LIMITS)
    whole = image_facts(encode(np.asarray(Image.open(BytesIO(jpeg)))), LIMITS)
    assert (found.width, found.height, found.format) == (side, side, "JPEG")
    assert found.mean_luminance == pytest.approx(whole.mean_luminance, abs=1.0)
    assert found.sharpness == pytest.approx(whole.sharpness, rel=0.02)
