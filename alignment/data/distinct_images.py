"""The distinct images of a snapshot's training pairs. N counts pairs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alignment.data.pairs import Pair, TrainingPairs

CHOSEN, REJECTED = 0, 1


@dataclass(frozen=True)
class Framed:
    """The crop of a pair's images: number of the bucket, and True if they are mirrored."""

    bucket: int
    mirrored: bool


@dataclass
class ImageTable:
    """Every distinct image, in order of first appearance. The same bytes in another crop are another image."""

    first: list[tuple[int, int]] = field(default_factory=list)
    """Pair and side (0 chosen, 1 rejected) of an image's first appearance."""
    framed: list[Framed] = field(default_factory=list)
    """Crop of each image."""
    of_pairs_N2: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    """Indices of each pair's chosen and rejected image."""
    bucket_N: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Bucket of each pair."""

    def __len__(self) -> int:
        return len(self.first)


def image_table(pairs: TrainingPairs, frame: Callable[[Pair], Framed]) -> ImageTable:
    """Read every image once and compare sha256 digests of the encoded bytes. `frame` returns the crop of a pair."""
    table = ImageTable(of_pairs_N2=np.empty((len(pairs), 2), np.int64), bucket_N=np.empty(len(pairs), np.int64))
    known: dict[tuple[bytes, Framed], int] = {}
    for index in range(len(pairs)):
        pair = pairs.pair(index)
        crop = frame(pair)
        table.bucket_N[index] = crop.bucket
        for side, encoded in ((CHOSEN, pair.image_chosen), (REJECTED, pair.image_rejected)):
            key = (hashlib.sha256(encoded).digest(), crop)
            if key not in known:
                known[key] = len(table)
                table.first.append((index, side))
                table.framed.append(crop)
            table.of_pairs_N2[index, side] = known[key]
    return table
