"""The pixels that people saw, whatever an image stores beside them."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from alignment.files.images import WHITE, is_direct, rgb_image, shown_size

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(width: int = 24, height: int = 16, channels: int = 3) -> "NDArray[np.uint8]":
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def pixels(encoded: bytes, ground: tuple[int, int, int] = WHITE) -> "NDArray[np.uint8]":
    image = rgb_image(encoded, "image", ground)
    assert image.mode == "RGB"
    return np.asarray(image)


def direct(encoded: bytes) -> bool:
    with Image.open(BytesIO(encoded)) as image:
        return is_direct(image)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_ordinary_image_keeps_the_pixels_of_a_plain_conversion(format: str, mode: str) -> None:
    encoded = saved(Image.fromarray(noise()).convert(mode), format)
    with Image.open(BytesIO(encoded)) as image:
        plain = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels(encoded), plain)
    assert direct(encoded)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK"])
def test_bilevel_palette_and_cmyk_become_rgb(mode: str) -> None:
    image = Image.fromarray(noise()).convert(mode)
    encoded = saved(image, "JPEG" if mode == "CMYK" else "PNG")
    with Image.open(BytesIO(encoded)) as opened:
        np.testing.assert_array_equal(pixels(encoded), np.asarray(opened.convert("RGB")))
    assert direct(encoded)


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_the_orientation_is_applied(format: str, orientation: int) -> None:
    stored = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    encoded = saved(Image.fromarray(stored), format, exif=exif.tobytes(), **options)
    expected = TURNED[orientation](stored)
    np.testing.assert_array_equal(pixels(encoded), expected)
    assert shown_size(encoded, "image") == expected.shape[1::-1]
    assert direct(encoded) == (orientation == 1)


def test_an_orientation_after_the_pixels_of_a_png_is_applied_and_a_damaged_one_ignored() -> None:
    stored = noise()
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = saved(Image.fromarray(stored), exif=exif.tobytes())
    start = encoded.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", encoded[start : start + 4])[0]
    late = encoded[:start] + encoded[end:-12] + encoded[start:end] + encoded[-12:]
    assert shown_size(late, "image") == (16, 24)
    np.testing.assert_array_equal(pixels(late), TURNED[6](stored))
    content = b"Exif\0\0II*\0\xff\xff\xff\xff"
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    np.testing.assert_array_equal(pixels(encoded[:start] + chunk + encoded[end:]), stored)


def test_sixteen_bits_of_grey_are_scaled() -> None:
    levels = np.array([[0, 128, 129, 257, 32768, 65279, 65535]], dtype=np.uint16)
    encoded = saved(Image.fromarray(levels))
    np.testing.assert_array_equal(pixels(encoded)[0, :, 0], [0, 0, 1, 1, 128, 254, 255])
    assert not direct(encoded)


@pytest.mark.parametrize("ground", [WHITE, (10, 20, 30)])
def test_transparency_is_composited_on_the_ground(ground: tuple[int, int, int]) -> None:
    rgba = np.zeros((2, 3, 4), dtype=np.uint8)
    rgba[:, :, :3] = RED
    rgba[:, :, 3] = [0, 128, 255]
    encoded = saved(Image.fromarray(rgba))
    share = np.array([0, 128, 255])[:, None] / 255
    expected = np.rint(np.array(RED) * share + np.array(ground) * (1 - share))
    np.testing.assert_allclose(pixels(encoded, ground)[0], expected, atol=1)
    assert not direct(encoded)


def test_transparency_of_grey_palette_and_a_single_colour() -> None:
    grey = np.array([[0, 200]], dtype=np.uint8)
    with_alpha = saved(Image.merge("LA", (Image.fromarray(grey), Image.fromarray(np.array([[0, 255]], np.uint8)))))
    keyed = saved(Image.fromarray(grey), transparency=0)
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([*GREEN, 200, 200, 200])
    for encoded in (with_alpha, keyed, saved(palette, transparency=b"\x00\xff"), saved(palette, transparency=0)):
        np.testing.assert_array_equal(pixels(encoded, BLUE)[0], [BLUE, (200, 200, 200)])
    deep = saved(Image.fromarray(np.array([[1000, 65535]], dtype=np.uint16)), transparency=1000)
    np.testing.assert_array_equal(pixels(deep, BLUE)[0], [BLUE, (255, 255, 255)])


def swapped_profile() -> bytes:
    """A profile whose red and green primaries are exchanged, so that its effect is plain."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for number in range(struct.unpack(">I", profile[128:132])[0]):
        at = 132 + 12 * number
        tags[bytes(profile[at : at + 4])] = at
    red, green = (profile[tags[name] + 4 : tags[name] + 12] for name in (b"rXYZ", b"gXYZ"))
    profile[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12], profile[tags[b"gXYZ"] + 4 : tags[b"gXYZ"] + 12] = green, red
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_converted_from_the_profile_to_srgb(mode: str) -> None:
    image = Image.new("RGB", (8, 8), RED).convert(mode)
    encoded = saved(image, icc_profile=swapped_profile())
    np.testing.assert_allclose(pixels(encoded)[0, 0].astype(int), GREEN, atol=2)
    assert not direct(encoded)


def test_srgb_and_damaged_or_foreign_profiles_change_nothing() -> None:
    stored = noise()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, srgb[:60], b"no profile at all", lab):
        encoded = saved(Image.fromarray(stored), icc_profile=profile)
        np.testing.assert_array_equal(pixels(encoded), stored)
        assert direct(encoded)


def test_damage_is_an_error_that_names_the_image() -> None:
    whole = saved(Image.fromarray(noise(300, 200)), "JPEG", quality=95)
    for encoded in (b"", b"junk", whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match=r"image_0 of pair x cannot be decoded: "):
            rgb_image(encoded, "image_0 of pair x")
    with pytest.raises(ValueError, match=r"image_0 of pair x cannot be decoded: "):
        shown_size(b"junk", "image_0 of pair x")
