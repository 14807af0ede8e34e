"""Make small pictures of images from outside: decoded within the project's limits and encoded again by us.

The bytes of a source never reach a browser: a decoder there, or a script inside an image file, could be attacked with
them.
"""

from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from pipelines.intake.image_facts import IDENTIFIED_FORMATS, image_facts
from pipelines.pages.page import data_uri
from pipelines.project.sections import ValidationSection

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

_QUALITY = 90
_WORDS = {
    "no_bytes": "no image",
    "too_many_bytes": "too many bytes",
    "unidentified": "not an image",
    "too_many_pixels": "too many pixels",
    "too_long_side": "too long a side",
    "format": "format not allowed",
    "frames": "animation",
    "damaged": "damaged",
}


def thumbnail(data: bytes | None, limits: ValidationSection, side: int) -> tuple[str, str]:
    """Return (data URI of a JPEG of at most `side` pixels a side, "") or ("", reason) where there is no picture of it.

    Call it inside `strict_decoding`. The same bytes give the same picture with the same version of Pillow.
    """
    problem = image_facts(data, limits).problem
    if problem:
        return "", _WORDS[problem]
    try:
        with Image.open(BytesIO(data or b""), formats=IDENTIFIED_FORMATS) as image:
            small = _small(image, side)
    except Exception:  # A decoder can raise any exception; image_facts decoded luminance only.
        return "", _WORDS["damaged"]
    stream = BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return data_uri(stream.getvalue(), "image/jpeg"), ""


def _small(image: "PILImage", side: int) -> "PILImage":
    """Shrink an image and put it upright, on white where it is transparent. Nothing of its metadata is kept."""
    image.draft("RGB", (2 * side, 2 * side))
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        # Pillow's conversion of 16 bits to 8 clips, which would make almost every image white.
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    upright.thumbnail((side, side))
    pixels = upright.convert("RGBA")
    ground = Image.new("RGB", pixels.size, "white")
    ground.paste(pixels, mask=pixels.getchannel("A"))
    return ground
