"""Write a feature cache (see `features` for its files): decode, encode and write overlap.

One process encodes a complete shard, in pieces of fixed size, and publishes it in one step. So the bytes do not depend
on the number of processes or threads, and an interrupted run continues with the missing shards.
B counts images of one pass of the VAE, N pairs of the cache, C H W an image or a latent.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from alignment.backbones.interface import DTYPES, Backbone, Framing
from alignment.catalogues.images import Bucket, Square, bucket_of_pair, buckets_of, is_mirrored
from alignment.contracts.data import EncodeSpec
from alignment.data.distinct_images import CHOSEN, REJECTED, Framed, ImageTable, image_table
from alignment.data.features import (
    BUCKETS_FILE,
    CAPTIONS_PER_SHARD,
    IMAGE,
    INDEX_FILE,
    SIDES,
    BucketCount,
    CacheIndex,
    bucket_prefix,
    read_shard,
    require_finite,
)
from alignment.data.pairs import Pair, TrainingPairs, framed, image_size
from alignment.files.background import BackgroundWork, ahead
from alignment.files.durable import write_json
from alignment.files.tensors import write_tensors

Item = TypeVar("Item")

PAIRS_AT_ONCE = 8
"""Pairs in one pass of the VAE. It affects the numbers (kernels choose their order of summation by batch size), so it
is not a setting of the placement."""
IMAGES_AT_ONCE = 2 * PAIRS_AT_ONCE
CAPTIONS_AT_ONCE = 32
REFERENCE_BYTES = 6 * 8
"""Size of a pair whose images are stored once: indices of images and captions, bucket."""


@dataclass(frozen=True)
class _Shard:
    """One file to write: its path in the cache, and the pairs, images or captions that it holds."""

    kind: str
    number: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """Path in the cache folder."""
        return f"{self.kind}/{self.number:05d}.safetensors"

    @property
    def size(self) -> int:
        """Number of pairs, images or captions."""
        return self.last - self.first


@dataclass(frozen=True)
class _Source:
    """An image as encoded bytes; `origin` names it in errors."""

    encoded: bytes
    origin: str
    mirrored: bool


@dataclass(frozen=True)
class _Piece:
    """Images for one pass of the VAE, from one shard and in one crop size."""

    shard: _Shard
    bucket: int
    rows: tuple[int, ...]
    """Positions in the shard of the pairs or images."""
    sources: tuple[_Source, ...]
    """Images of the rows; if the rows are pairs, all chosen ones before all rejected ones."""


@dataclass(frozen=True)
class _Decoded:
    """A piece, ready for the VAE."""

    piece: _Piece
    pixels_BCHW: Tensor
    framings: list[Framing]


class FeatureWriter:
    """Encode a snapshot's pairs shard by shard. Any number of processes may share the work.

    `threads` of each process decode images while the encoders compute.
    """

    def __init__(
        self, pairs: TrainingPairs, backbone: Backbone, spec: EncodeSpec, out: Path, *, threads: int = 1
    ) -> None:
        self.pairs = pairs
        self.backbone = backbone
        backbone.encoder_dtype = DTYPES[spec.encoding.precision]
        self.spec = spec
        self.out = out
        self.threads = threads
        self.num_captioned = pairs.num_captioned
        self.buckets = buckets_of(spec.images, spec.backbone.resolution)
        self.bucketed = not isinstance(spec.images, Square)
        distinct = dict.fromkeys(caption for both in pairs.captions for caption in both)
        distinct |= dict.fromkeys(pairs.prompts)
        self.captions = ["", *(caption for caption in distinct if caption)]
        self._caption_index = {caption: index for index, caption in enumerate(self.captions)}
        self.images: ImageTable | None = image_table(pairs, self._frame) if spec.encoding.distinct_images else None
        """Images that are stored once; None if they are stored with each pair."""
        self.shards = [
            *_shards("text", len(self.captions), CAPTIONS_PER_SHARD),
            *_shards("images", len(self.images or ()), self._images_per_shard),
            *_shards("pairs", len(pairs), spec.shard_pairs),
        ]

    @property
    def _images_per_shard(self) -> int:
        return 2 * self.spec.shard_pairs

    # --- files ---

    def write(self, rank: int, num_processes: int, on_shard: Callable[[], None]) -> None:
        """Write this process's shards, skipping finished ones; `on_shard` is called after each."""
        own = self.shards[rank::num_processes]
        missing = [shard for shard in own if not (self.out / shard.name).is_file()]
        for _ in range(len(own) - len(missing)):
            on_shard()
        with BackgroundWork(threads=1) as writes:
            for shard, tensors in self._encode(missing):
                require_finite(tensors, f"{shard.kind} {shard.first} to {shard.last - 1}")
                writes.submit([partial(_publish, self.out / shard.name, tensors)], on_shard)

    def num_finished(self) -> int:
        """Return the number of shards on disk, written by any process."""
        return sum((self.out / shard.name).is_file() for shard in self.shards)

    def bytes_to_write(self) -> int:
        """Return the size of all shards that are not on disk, at most 1 % too low. Encodes the empty caption."""
        missing = [shard for shard in self.shards if not (self.out / shard.name).is_file()]
        image_bytes = 2 * math.prod(self.backbone.latent_shape) * DTYPES[self.spec.encoding.moments].itemsize
        item_bytes = {"images": image_bytes, "pairs": 2 * image_bytes if self.images is None else REFERENCE_BYTES}
        if any(shard.kind == "text" for shard in missing):
            item_bytes["text"] = sum(rows.nbytes for rows in self.backbone.encode_captions([""]).values())
        return sum(shard.size * item_bytes[shard.kind] for shard in missing)

    def finish(self) -> CacheIndex:
        """Write index.json and, with buckets, buckets.safetensors. Call it after every shard is written."""
        index = CacheIndex(
            spec=self.spec,
            num_pairs=len(self.pairs),
            num_captions=len(self.captions),
            latent_shape=self.backbone.latent_shape,
            buckets=self._count_buckets() if self.bucketed else (),
            num_images=len(self.images or ()),
            images_per_shard=0 if self.images is None else self._images_per_shard,
        )
        write_json(self.out / INDEX_FILE, index.model_dump(mode="json"))
        return index

    def _count_buckets(self) -> tuple[BucketCount, ...]:
        shards = [read_shard(self.out / shard.name) for shard in self.shards if shard.kind == "pairs"]
        bucket_N = torch.cat([tensors["bucket_B"] for tensors in shards])
        write_tensors(self.out / BUCKETS_FILE, {"bucket_N": bucket_N.to(torch.uint8)})
        counts = torch.bincount(bucket_N, minlength=len(self.buckets)).tolist()
        return tuple(
            BucketCount(width=bucket.width, height=bucket.height, num_pairs=count)
            for bucket, count in zip(self.buckets, counts, strict=True)
        )

    def files(self) -> list[Path]:
        """List every file of the finished cache."""
        names = [INDEX_FILE, *([BUCKETS_FILE] if self.bucketed else []), *(shard.name for shard in self.shards)]
        return [self.out / name for name in names]

    # --- tensors ---

    def _encode(self, shards: Sequence[_Shard]) -> Iterator[tuple[_Shard, dict[str, Tensor]]]:
        """Return the tensors of each shard. Text encoders and VAE are not in memory together."""
        for shard in shards:
            if shard.kind == "text":
                yield shard, self._text(shard)
        self.backbone.release_text_encoders()
        # A piece that is decoded takes 50 MiB at 512 px and 200 MiB at 1024 px.
        decoded = ahead(self._decode, self._pieces(shards), threads=self.threads, limit=self.threads)
        for shard, group in groupby(decoded, key=lambda piece: piece.piece.shard):
            images = self._images(group)
            yield shard, images if shard.kind == "images" else images | self._captions_of(shard)
        if self.images is not None:
            yield from ((shard, self._references(shard)) for shard in shards if shard.kind == "pairs")

    def _text(self, shard: _Shard) -> dict[str, Tensor]:
        captions = self.captions[shard.first : shard.last]
        parts = [self.backbone.encode_captions(piece) for piece in _cut(captions, CAPTIONS_AT_ONCE)]
        return _joined(parts)

    def _images(self, pieces: Iterable[_Decoded]) -> dict[str, Tensor]:
        """Return the latent moments and the image conditioning of a shard, by bucket if there are buckets."""
        tensors: dict[str, Tensor] = {}
        rows, numbers, places = list[int](), list[int](), list[int]()
        for number, group in groupby(pieces, key=lambda piece: piece.piece.bucket):
            own, parts = list[int](), list[dict[str, Tensor]]()
            for piece in group:
                own += piece.piece.rows
                parts.append(self._moments(piece))
            prefix = bucket_prefix(self.buckets[number]) if self.bucketed else ""
            tensors |= {f"{prefix}{name}": values for name, values in _joined(parts).items()}
            rows, numbers, places = rows + own, numbers + [number] * len(own), places + list(range(len(own)))
        if self.bucketed:
            order = torch.tensor(rows).argsort()
            tensors["bucket_B"] = torch.tensor(numbers)[order]
            tensors["place_B"] = torch.tensor(places)[order]
        return tensors

    def _moments(self, decoded: _Decoded) -> dict[str, Tensor]:
        moments = self.backbone.encode_images(decoded.pixels_BCHW)
        dtype = DTYPES[self.spec.encoding.moments]
        both = {"mean_BCHW": moments.mean_BCHW.to(dtype), "std_BCHW": moments.std_BCHW.to(dtype)}
        conditioning = self.backbone.image_conditioning(decoded.framings)
        both |= {f"{IMAGE}{name}": rows for name, rows in conditioning.items()}
        if self.images is not None:
            return both
        return {
            f"{which}_{name}": half
            for name, rows in both.items()
            for which, half in zip(SIDES, rows.chunk(2), strict=True)
        }

    def _captions_of(self, shard: _Shard) -> dict[str, Tensor]:
        indices = range(shard.first, shard.last)
        captions = torch.tensor([[self._caption_index[text] for text in self.pairs.captions[i]] for i in indices])
        tensors = {"caption_chosen_B": captions[:, 0], "caption_rejected_B": captions[:, 1]}
        if self.num_captioned:
            tensors["prompt_B"] = torch.tensor([self._caption_index[self.pairs.prompts[i]] for i in indices])
        return tensors

    def _references(self, shard: _Shard) -> dict[str, Tensor]:
        """Return the tensors of pairs whose images are stored once."""
        assert self.images is not None
        rows = slice(shard.first, shard.last)
        images = torch.from_numpy(self.images.of_pairs_N2[rows])
        tensors = {"image_chosen_B": images[:, 0], "image_rejected_B": images[:, 1], **self._captions_of(shard)}
        return tensors | ({"bucket_B": torch.from_numpy(self.images.bucket_N[rows])} if self.bucketed else {})

    # --- images ---

    def _frame(self, pair: Pair) -> Framed:
        """Return the crop of a pair's images: both are cropped to one bucket and mirrored alike."""
        mirrored = is_mirrored(self.spec.images, pair.pair_id)
        if not self.bucketed:
            return Framed(0, mirrored)
        sizes = (image_size(encoded, _origin(pair, side)) for side, encoded in enumerate(_images_of(pair)))
        return Framed(bucket_of_pair(self.buckets, *sizes), mirrored)

    def _pieces(self, shards: Sequence[_Shard]) -> Iterator[_Piece]:
        """Return the pieces of all shards that hold images, in the order in which they are encoded."""
        for shard in shards:
            if shard.kind == "images":
                yield from self._pieces_of_images(shard)
            elif shard.kind == "pairs" and self.images is None:
                yield from self._pieces_of_pairs(shard)

    def _pieces_of_pairs(self, shard: _Shard) -> Iterator[_Piece]:
        pairs = [self.pairs.pair(index) for index in range(shard.first, shard.last)]
        crops = [self._frame(pair) for pair in pairs]
        for bucket, rows in _by_bucket(crops, PAIRS_AT_ONCE):
            sources = [_source(pairs[row], side, crops[row]) for side in (CHOSEN, REJECTED) for row in rows]
            yield _Piece(shard, bucket, tuple(rows), tuple(sources))

    def _pieces_of_images(self, shard: _Shard) -> Iterator[_Piece]:
        assert self.images is not None
        own = slice(shard.first, shard.last)
        crops = self.images.framed[own]
        sources = [
            _source(self.pairs.pair(index), side, crop)
            for (index, side), crop in zip(self.images.first[own], crops, strict=True)
        ]
        for bucket, rows in _by_bucket(crops, IMAGES_AT_ONCE):
            yield _Piece(shard, bucket, tuple(rows), tuple(sources[row] for row in rows))

    def _decode(self, piece: _Piece) -> _Decoded:
        """Decode and crop a piece; it is in the encoders' dtype and, for a GPU, where copies need not wait."""
        bucket: Bucket = self.buckets[piece.bucket]
        ground = self.pairs.ground
        images = [framed(s.encoded, bucket, s.origin, mirrored=s.mirrored, ground=ground) for s in piece.sources]
        pixels_BCHW = torch.stack([image.pixels_CHW for image in images]).to(self.backbone.encoder_dtype)
        pixels_BCHW = pixels_BCHW.pin_memory() if torch.cuda.is_available() else pixels_BCHW
        return _Decoded(piece, pixels_BCHW, [image.framing for image in images])


def _publish(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard; a file that exists is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    write_tensors(draft, tensors)
    draft.replace(path)


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _source(pair: Pair, side: int, crop: Framed) -> _Source:
    return _Source(_images_of(pair)[side], _origin(pair, side), crop.mirrored)


def _images_of(pair: Pair) -> tuple[bytes, bytes]:
    return pair.image_chosen, pair.image_rejected


def _origin(pair: Pair, side: int) -> str:
    return f"image_{SIDES[side]} of pair {pair.pair_id}"


def _by_bucket(crops: Sequence[Framed], size: int) -> Iterator[tuple[int, list[int]]]:
    """Return the rows of each bucket, at most `size` at a time: one pass of the VAE never mixes buckets."""
    for number in sorted({crop.bucket for crop in crops}):
        members = [row for row, crop in enumerate(crops) if crop.bucket == number]
        yield from ((number, list(rows)) for rows in _cut(members, size))


def _shards(kind: str, count: int, size: int) -> Iterator[_Shard]:
    for number, first in enumerate(range(0, count, size)):
        yield _Shard(kind, number, first, min(first + size, count))


def _cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
