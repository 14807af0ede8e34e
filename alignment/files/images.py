"""Turn encoded images into the RGB pixels that people saw. Torch-free, used by every reader of images.

People judge images on a page of a browser, and a model must learn from the same pixels:

    orientation     the EXIF tag is applied
    transparency    alpha is composited on the ground of the page
    16-bit grey     scaled to 8 bits (Pillow's own conversion clips everything above 255 to white)
    profile         ICC profiles are converted to sRGB; a damaged one, or one of other channels, is ignored
    CMYK, palette   converted to RGB, CMYK through its profile where it has one

An RGB or grey image without these has the pixels that Pillow's `convert("RGB")` gives.
"""

import functools
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Ground = tuple[int, int, int]
WHITE: Ground = (255, 255, 255)
_GROUND_KEY = "plumbline.ground"
_PIXELS_KEY = "plumbline.pixels"
_PIXELS_VERSION = "2"
"""Raised when `shown` gives other pixels for some images, so that snapshots with such images get another digest."""

_ORIENTATION = 0x0112
_METADATA = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
_PNG_METADATA = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
"""Bytes without which a PNG states no orientation; these chunks may follow the pixels."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_LATE_METADATA = frozenset({"PNG", "TIFF"})
"""Formats whose orientation is only known once the pixels are read."""
_DIRECT_MODES = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr"})
"""Modes that convert to RGB without loss of what people saw, where there is no transparency and no profile."""
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_EIGHT_OF_SIXTEEN = ((np.arange(65536) + 128) // 257).astype(np.uint8)
"""The 8-bit level of each 16-bit level: value / 257, rounded, which maps 65535 to 255."""
_SAME_LEVELS = 1
"""Largest difference to sRGB, in levels of 8 bits, of a profile that counts as sRGB."""


def rgb_image(encoded: bytes, origin: str, ground: Ground = WHITE) -> "PILImage":
    """Decode bytes to the RGB image that people saw, transparent parts on `ground`.

    ValueError that names `origin` when the bytes are not an image or are damaged.
    """
    try:
        with Image.open(BytesIO(encoded)) as image:
            return shown(image, ground)
    except Exception as error:  # Decoders report damage with many exceptions, SyntaxError and struct.error among them.
        raise ValueError(f"{origin} cannot be decoded: {error}") from error


def shown_size(encoded: bytes, origin: str) -> tuple[int, int]:
    """Read width and height of the image that `rgb_image` returns, from the header where possible; errors as there."""
    try:
        with Image.open(BytesIO(encoded)) as image:
            if image.format == "PNG" and not any(mark in encoded for mark in _PNG_METADATA):
                return image.size
            return upright_size(image)
    except Exception as error:  # As above.
        raise ValueError(f"{origin} cannot be decoded: {error}") from error


def parse_ground(colour: str) -> Ground:
    """Return red, green and blue of `#rrggbb`."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def ground_metadata(ground: Ground) -> dict[str, str]:
    """Return the metadata of a parquet file with images that are not direct: readers find the ground there."""
    return {_GROUND_KEY: f"#{bytes(ground).hex()}", _PIXELS_KEY: _PIXELS_VERSION}


def read_ground(metadata: Mapping[bytes, bytes] | None) -> Ground:
    """Return the ground that `ground_metadata` wrote into the schema of a file; white where it wrote none."""
    colour = (metadata or {}).get(_GROUND_KEY.encode())
    return WHITE if colour is None else parse_ground(colour.decode())


def shown(image: "PILImage", ground: Ground = WHITE) -> "PILImage":
    """Return the RGB pixels of an opened image as a browser shows them on a page of the colour `ground`."""
    turn = _TURNS.get(_orientation(image))
    rgb = _on_ground(image, ground)
    return rgb.transpose(turn) if turn is not None else rgb


def upright_size(image: "PILImage") -> tuple[int, int]:
    """Return width and height after the orientation is applied. Reads the pixels of formats with late metadata."""
    sideways = _orientation(image) in _SIDEWAYS
    return (image.height, image.width) if sideways else image.size


def is_direct(image: "PILImage") -> bool:
    """Return True when a plain conversion to RGB gives the pixels of `shown`; earlier readers gave others if not."""
    return (
        _orientation(image) not in _TURNS
        and image.mode in _DIRECT_MODES
        and not image.has_transparency_data
        and _profile_transform(image, image.mode if image.mode in _PROFILE_SPACES else "RGB") is None
    )


def _orientation(image: "PILImage") -> int:
    """Return the EXIF orientation, 1 to 8; 1 where it is absent or damaged."""
    if image.format in _LATE_METADATA:
        image.load()
    if image.format == "TIFF" or not _METADATA & image.info.keys():  # Pillow turns a TIFF when it reads the pixels
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Any exception on damaged metadata; a browser shows such an image as it is stored.
        return 1
    return value if isinstance(value, int) else 1


def _on_ground(image: "PILImage", ground: Ground) -> "PILImage":
    alpha = _alpha(image)
    colours = _eight_bit(image)
    transform = _profile_transform(image, colours.mode)
    rgb = colours.convert("RGB") if transform is None else ImageCms.applyTransform(colours, transform)
    assert rgb is not None, "only a transform in place returns nothing"
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, ground), alpha)


def _alpha(image: "PILImage") -> "PILImage | None":
    """Return the opacity as an image of mode L; None for an image without transparency."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):
        opaque = np.asarray(image) != image.info["transparency"]
        return Image.fromarray(opaque.astype(np.uint8) * 255)
    return image.convert("RGBA").getchannel("A")


def _eight_bit(image: "PILImage") -> "PILImage":
    """Return the colours without transparency, in mode L, RGB or CMYK."""
    mode = image.mode
    if mode.startswith("I"):
        stored = np.asarray(image)
        return Image.fromarray(_EIGHT_OF_SIXTEEN[stored if mode != "I" else np.clip(stored, 0, 65535)])
    if mode in ("L", "RGB", "CMYK"):
        return image
    if mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")
        rgb = ImageCms.applyTransform(image, transform)
        assert rgb is not None, "only a transform in place returns nothing"
        return rgb
    if mode in ("1", "LA", "F"):
        return image.convert("L")
    if mode in ("PA", "RGBa", "La"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    return image.convert("L" if image.mode == "LA" else "RGB")


def _profile_transform(image: "PILImage", mode: str) -> "ImageCms.ImageCmsTransform | None":
    profile = image.info.get("icc_profile")
    return _to_srgb(profile, mode) if isinstance(profile, bytes) and profile and mode in _PROFILE_SPACES else None


def _srgb() -> "ImageCms.ImageCmsProfile":
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> "ImageCms.ImageCmsTransform | None":
    """Return the conversion of pixels of this mode; None for a profile of other channels, a damaged one, and sRGB."""
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        opened: Any = own.profile
        if opened.xcolor_space.strip() != _PROFILE_SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(own, _srgb(), mode, "RGB")
    except Exception:  # Any exception on a damaged profile; a browser shows such an image without it.
        return None
    return None if mode != "CMYK" and _keeps_colours(transform, mode) else transform


def _keeps_colours(transform: "ImageCms.ImageCmsTransform", mode: str) -> bool:
    """Return True when the conversion changes no colour of a grid by more than one level."""
    levels = np.arange(0, 256, 15 if mode == "RGB" else 1, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1) if mode == "RGB" else levels
    image = Image.fromarray(colours.reshape(1, -1, 3) if mode == "RGB" else colours.reshape(1, -1))
    found = ImageCms.applyTransform(image, transform)
    difference = np.asarray(found, dtype=np.int16) - np.asarray(image.convert("RGB"), dtype=np.int16)
    return bool(np.abs(difference).max() <= _SAME_LEVELS)
