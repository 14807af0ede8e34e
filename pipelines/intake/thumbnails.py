"""Make small pictures of images from outside: decoded within the project's limits and encoded again by us.

The bytes of a source never reach a browser: a decoder there, or a script inside an image file, could be attacked with
them.
"""

import hashlib
from io import BytesIO

from alignment.files.images import parse_ground, rgb_image
from pipelines.intake.decoding.pool import EncodedImage, shared_pool
from pipelines.intake.image_facts import decoding_limits
from pipelines.pages.page import data_uri
from pipelines.project.sections import ValidationSection

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
    "decode_too_slow": "takes too long to decode",
    "decode_failed": "its decoder failed",
}


def thumbnail(data: bytes | None, limits: ValidationSection, side: int) -> tuple[str, str]:
    """Return (data URI of a JPEG of at most `side` pixels a side, "") or ("", reason) where there is no picture of it.

    The image is decoded here only after a process of the decoding pool has decoded it within the limits. The same bytes
    give the same picture with the same version of Pillow.
    """
    encoded = EncodedImage(data or b"", hashlib.sha256(data or b"").hexdigest())
    [facts] = shared_pool().submit([encoded], decoding_limits(limits))
    if problem := facts.result().problem:
        return "", _WORDS[problem]
    image = rgb_image(bytes(encoded.data), "A quarantined image", parse_ground(limits.ground))
    image.thumbnail((side, side))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return data_uri(stream.getvalue(), "image/jpeg"), ""
