"""Crops of training images: one square for all, or the aspect bucket that both images of a pair share. Torch-free.

A bucket is a size in pixels. Its area is at most that of the square at the backbone's resolution.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from alignment.catalogues.record import Record

ImageSize = tuple[int, int]
"""Width and height of an original image, pixels."""


class ImageParams(Record):
    """Settings of every kind of crop."""

    flip: bool = False
    """Mirror both images of half of the pairs; pair_id selects the half. The cache holds one orientation per pair.
    Captions stay unchanged, so keep it off if they mention left and right."""


class Square(ImageParams):
    """The centre square of every image, at the backbone's resolution."""

    kind: Literal["square"] = "square"


class AspectBuckets(ImageParams):
    """The centre of every image, in the shape of the bucket nearest to its pair; see `_bucket_sizes`."""

    kind: Literal["aspect_buckets"] = "aspect_buckets"
    step_pixels: Annotated[int, Field(ge=16, multiple_of=16)] = 64
    """Both sides are multiples of it. One token of SD3 and FLUX covers 16 pixels."""
    max_aspect: Annotated[float, Field(ge=1, le=4)] = 2.0
    """Largest ratio of the longer side to the shorter one."""


Images = Annotated[Square | AspectBuckets, Field(discriminator="kind")]


@dataclass(frozen=True, order=True)
class Bucket:
    """A size that training images are cropped to, pixels."""

    width: int
    height: int

    @property
    def log_aspect(self) -> float:
        """Natural logarithm of width / height; 0 for a square."""
        return math.log(self.width / self.height)


def buckets_of(images: Square | AspectBuckets, resolution: int) -> tuple[Bucket, ...]:
    """Return every size that images may be cropped to, narrowest first. ValueError when the step exceeds the square."""
    if isinstance(images, Square):
        return (Bucket(resolution, resolution),)
    if images.step_pixels > resolution:
        raise ValueError(
            f"images.step_pixels is {images.step_pixels}, above the backbone's resolution of {resolution}. Lower it to"
            " a multiple of 16 that is at most the resolution."
        )
    return _bucket_sizes(resolution, step=images.step_pixels, max_aspect=images.max_aspect)


def _bucket_sizes(resolution: int, *, step: int, max_aspect: float) -> tuple[Bucket, ...]:
    """Return the sizes in multiples of `step` that fill the square's area: adding a step to a side would exceed it.

    For 1024, 64 and 2 every size is one that SDXL was trained on (Podell et al. 2023, appendix I).
    """
    area = resolution * resolution
    sizes = []
    for width in range(step, area // step + 1, step):
        height = area // width // step * step
        too_long = max(width, height) > max_aspect * min(width, height)
        if height and not too_long and (width + step) * height > area:
            sizes.append(Bucket(width, height))
    return tuple(sorted(sizes, key=lambda bucket: bucket.log_aspect))


def bucket_of_pair(buckets: tuple[Bucket, ...], chosen: ImageSize, rejected: ImageSize) -> int:
    """Return the index of the bucket nearest to the mean of both images' log aspects; on a tie, the narrower one.

    A pair of a wide and a tall image gets a bucket between them. A pair beyond the limit gets the outermost bucket.
    """
    wanted = (math.log(chosen[0] / chosen[1]) + math.log(rejected[0] / rejected[1])) / 2
    return min(range(len(buckets)), key=lambda index: (round(abs(buckets[index].log_aspect - wanted), 9), index))


def is_mirrored(images: Square | AspectBuckets, pair_id: str) -> bool:
    """Return True if both images of a pair are mirrored: a fair coin that depends on pair_id alone."""
    return images.flip and hashlib.sha256(f"flip/{pair_id}".encode()).digest()[0] % 2 == 1
