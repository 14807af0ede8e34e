"""The feature cache: latent moments of every image, text states of every distinct caption, in memory-mapped shards.

    index.json                 what is there (`_CacheIndex`)
    pairs/00000.safetensors    {chosen,rejected}_{mean,std}_BCHW, caption_{chosen,rejected}_B of `shard_pairs` pairs,
                               prompt_B if captions of the snapshot differ from the prompt, and
                               {chosen,rejected}_image_NAME if the backbone conditions its denoiser on each image.
                               With aspect buckets, moments and image_NAME are stored by bucket, as WxH/NAME, with
                               bucket_B and place_B: a pair's bucket, and its row among the shard's pairs of that bucket
    buckets.safetensors        bucket_N of all pairs; only with aspect buckets
    text/00000.safetensors     text states of `captions_per_shard` captions; caption 0 is the empty one

One process encodes a complete shard, in pieces of fixed size, and publishes it in one step. So the bytes do not depend
on the number of processes, and an interrupted run continues with the missing shards.
B counts pairs or captions of a shard, N pairs of the cache, C H W a latent.
"""

import functools
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alignment.backbones.interface import Backbone, Conditioning
from alignment.catalogues.images import Bucket, Square, bucket_of_pair, buckets_of, is_mirrored
from alignment.contracts.data import EncodeSpec
from alignment.contracts.jobs import JobStoppedError
from alignment.contracts.values import Record
from alignment.data.pairs import FramedImage, Pair, TrainingPairs, framed, image_size
from alignment.files.durable import write_json
from alignment.files.tensors import write_tensors

Item = TypeVar("Item")

INDEX_FILE = "index.json"
BUCKETS_FILE = "buckets.safetensors"
CAPTIONS_PER_SHARD = 256
PAIRS_AT_ONCE = 8
"""Pairs in one pass of the VAE. It affects the numbers (kernels choose their order of summation by batch size), so it
is not a setting of the placement."""
CAPTIONS_AT_ONCE = 32
OPEN_SHARDS = 256
SIDES = ("chosen", "rejected")
MOMENTS = tuple(f"{side}_{moment}_BCHW" for side in SIDES for moment in ("mean", "std"))
IMAGE = "image_"


class _BucketCount(Record):
    """A bucket of the cache, with its number of pairs."""

    width: int
    height: int
    num_pairs: int


class _CacheIndex(Record):
    """index.json: the layout of the cache, and the spec it was encoded from."""

    spec: EncodeSpec
    num_pairs: int
    num_captions: int
    captions_per_shard: int = CAPTIONS_PER_SHARD
    latent_shape: tuple[int, int, int]
    """C, H, W of a latent; with aspect buckets, that of the square whose area they fill."""
    buckets: tuple[_BucketCount, ...] = Field(default=(), exclude_if=operator.not_)
    """Every aspect bucket, including empty ones; empty if all images are squares."""


@dataclass(frozen=True)
class _Shard:
    """One file to write: its path in the cache, and the pairs or captions that it holds."""

    kind: str
    number: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """Path in the cache folder."""
        return f"{self.kind}/{self.number:05d}.safetensors"


# --- writing --------------------------------------------------------------------------------------------------------


class FeatureWriter:
    """Encode a snapshot's pairs shard by shard. Any number of processes may share the work."""

    def __init__(self, pairs: TrainingPairs, backbone: Backbone, spec: EncodeSpec, out: Path) -> None:
        self.pairs = pairs
        self.backbone = backbone
        self.spec = spec
        self.out = out
        self.num_captioned = pairs.num_captioned
        self.buckets = buckets_of(spec.images, spec.backbone.resolution)
        self.bucketed = not isinstance(spec.images, Square)
        distinct = dict.fromkeys(caption for both in pairs.captions for caption in both)
        distinct |= dict.fromkeys(pairs.prompts)
        self.captions = ["", *(caption for caption in distinct if caption)]
        self._caption_index = {caption: index for index, caption in enumerate(self.captions)}
        self.shards = [
            *_shards("text", len(self.captions), CAPTIONS_PER_SHARD),
            *_shards("pairs", len(pairs), spec.shard_pairs),
        ]

    def write(self, rank: int, num_processes: int, on_shard: Callable[[], None]) -> None:
        """Write this process's shards, skipping finished ones; `on_shard` is called after each."""
        for shard in self.shards[rank::num_processes]:
            path = self.out / shard.name
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                tensors = self._text(shard) if shard.kind == "text" else self._pairs(shard)
                _require_finite(tensors, f"{shard.kind} {shard.first} to {shard.last - 1}")
                draft = path.with_name(f".{path.name}.part")
                write_tensors(draft, tensors)
                draft.replace(path)
            on_shard()

    def num_finished(self) -> int:
        """Return the number of shards on disk, written by any process."""
        return sum((self.out / shard.name).is_file() for shard in self.shards)

    def finish(self) -> _CacheIndex:
        """Write index.json and, with buckets, buckets.safetensors. Call it after every shard is written."""
        index = _CacheIndex(
            spec=self.spec,
            num_pairs=len(self.pairs),
            num_captions=len(self.captions),
            latent_shape=self.backbone.latent_shape,
            buckets=self._count_buckets() if self.bucketed else (),
        )
        write_json(self.out / INDEX_FILE, index.model_dump(mode="json"))
        return index

    def _count_buckets(self) -> tuple[_BucketCount, ...]:
        shards = [_tensors(self.out / shard.name) for shard in self.shards if shard.kind == "pairs"]
        bucket_N = torch.cat([tensors["bucket_B"] for tensors in shards])
        write_tensors(self.out / BUCKETS_FILE, {"bucket_N": bucket_N.to(torch.uint8)})
        counts = torch.bincount(bucket_N, minlength=len(self.buckets)).tolist()
        return tuple(
            _BucketCount(width=bucket.width, height=bucket.height, num_pairs=count)
            for bucket, count in zip(self.buckets, counts, strict=True)
        )

    def files(self) -> list[Path]:
        """List every file of the finished cache."""
        names = [INDEX_FILE, *([BUCKETS_FILE] if self.bucketed else []), *(shard.name for shard in self.shards)]
        return [self.out / name for name in names]

    def _text(self, shard: _Shard) -> dict[str, Tensor]:
        captions = self.captions[shard.first : shard.last]
        parts = [self.backbone.encode_captions(piece) for piece in _pieces(captions, CAPTIONS_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _pairs(self, shard: _Shard) -> dict[str, Tensor]:
        indices = range(shard.first, shard.last)
        tensors = self._latents([self.pairs.pair(index) for index in indices])
        captions = torch.tensor([[self._caption_index[text] for text in self.pairs.captions[i]] for i in indices])
        tensors["caption_chosen_B"], tensors["caption_rejected_B"] = captions[:, 0], captions[:, 1]
        if self.num_captioned:
            tensors["prompt_B"] = torch.tensor([self._caption_index[self.pairs.prompts[i]] for i in indices])
        return tensors

    def _latents(self, pairs: list[Pair]) -> dict[str, Tensor]:
        """Latent moments and image conditioning. One pass of the VAE never mixes buckets."""
        numbers = [self._bucket_of(pair) for pair in pairs]
        tensors: dict[str, Tensor] = {}
        for number in sorted(set(numbers)):
            members = [pair for pair, own in zip(pairs, numbers, strict=True) if own == number]
            parts = [self._moments(piece, self.buckets[number]) for piece in _pieces(members, PAIRS_AT_ONCE)]
            prefix = _prefix(self.buckets[number]) if self.bucketed else ""
            tensors |= {f"{prefix}{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
        if self.bucketed:
            tensors["bucket_B"] = torch.tensor(numbers)
            tensors["place_B"] = torch.tensor([numbers[:row].count(number) for row, number in enumerate(numbers)])
        return tensors

    def _bucket_of(self, pair: Pair) -> int:
        if not self.bucketed:
            return 0
        sizes = (image_size(encoded, _origin(pair, side)) for side, encoded in _sides(pair))
        return bucket_of_pair(self.buckets, *sizes)

    def _moments(self, pairs: Sequence[Pair], bucket: Bucket) -> dict[str, Tensor]:
        chosen, rejected = zip(*(self._framed(pair, bucket) for pair in pairs), strict=True)
        moments = self.backbone.encode_images(torch.stack([image.pixels_CHW for image in chosen + rejected]))
        conditioning = self.backbone.image_conditioning([image.framing for image in chosen + rejected])
        both = {"mean_BCHW": moments.mean_BCHW, "std_BCHW": moments.std_BCHW}
        both |= {f"{IMAGE}{name}": rows for name, rows in conditioning.items()}
        return {
            f"{which}_{name}": half
            for name, rows in both.items()
            for which, half in zip(SIDES, rows.chunk(2), strict=True)
        }

    def _framed(self, pair: Pair, bucket: Bucket) -> list[FramedImage]:
        """Chosen and rejected image, cropped to the same bucket and mirrored alike."""
        mirrored = is_mirrored(self.spec.images, pair.pair_id)
        return [
            framed(encoded, bucket, _origin(pair, side), mirrored=mirrored, ground=self.pairs.ground)
            for side, encoded in _sides(pair)
        ]


def _sides(pair: Pair) -> list[tuple[str, bytes]]:
    return list(zip(SIDES, (pair.image_chosen, pair.image_rejected), strict=True))


def _origin(pair: Pair, side: str) -> str:
    return f"image_{side} of pair {pair.pair_id}"


def _prefix(bucket: Bucket | _BucketCount) -> str:
    """Name prefix of a bucket's tensors in a shard."""
    return f"{bucket.width}x{bucket.height}/"


def _shards(kind: str, count: int, size: int) -> Iterator[_Shard]:
    for number, first in enumerate(range(0, count, size)):
        yield _Shard(kind, number, first, min(first + size, count))


def _pieces(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CachedPair:
    """Latent moments of one pair, and the indices of its images' captions."""

    chosen_mean_CHW: Tensor
    chosen_std_CHW: Tensor
    rejected_mean_CHW: Tensor
    rejected_std_CHW: Tensor
    caption_chosen: int
    caption_rejected: int
    prompts: tuple[int, int]
    """Index of the prompt, once for each side. If the cache stores no prompts, these are the captions: the prompt,
    unless the cache was encoded from captioned images before prompts were stored."""
    chosen_image: Conditioning
    rejected_image: Conditioning
    """Conditioning of each image besides its caption, without the batch dimension."""

    @property
    def is_captioned(self) -> bool:
        """True if at least one caption differs from the prompt."""
        captions = (self.caption_chosen, self.caption_rejected)
        return captions != self.prompts or self.caption_chosen != self.caption_rejected


class CachedFeatures:
    """A finished cache folder, memory-mapped.

    Raises JobStoppedError (bad_data) when a file is missing or damaged; ValueError when the cache is empty, or holds a
    value that is not finite.
    """

    streamed = False
    """True when the pairs arrive while they are read, so that `expect` has to be called before each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            text = (folder / INDEX_FILE).read_text(encoding="utf-8")
            self.index = _CacheIndex.model_validate(json.loads(text))
        except (OSError, json.JSONDecodeError, ValidationError) as error:
            raise JobStoppedError("bad_data", f"{folder} is not a feature cache: {error}") from error
        if self.index.num_pairs < 1:
            raise ValueError(f"The feature cache {folder} holds no pairs. Encode a snapshot that has pairs.")

    def expect(self, pairs: Sequence[int], *, now: int, announce: bool) -> None:
        """State the pairs that are read next, in order; the present step reads the first `now` of them.

        Of the processes of a host, one announces them to whoever brings them. All pairs of a complete cache are here.
        """

    def pair(self, index: int) -> _CachedPair:
        """Return the pair at a global index."""
        shard, offset = self._pair_rows(index)
        captions = (int(shard["caption_chosen_B"][offset]), int(shard["caption_rejected_B"][offset]))
        prompt = int(shard["prompt_B"][offset]) if "prompt_B" in shard else None
        prefix, row = "", offset
        if self.index.buckets:
            prefix, row = _prefix(self.index.buckets[int(shard["bucket_B"][offset])]), int(shard["place_B"][offset])
        latents = {name: shard[f"{prefix}{name}"][row] for name in MOMENTS}
        _require_finite(latents, f"pair {index} of the feature cache {self.folder}")
        return _CachedPair(
            chosen_mean_CHW=latents["chosen_mean_BCHW"],
            chosen_std_CHW=latents["chosen_std_BCHW"],
            rejected_mean_CHW=latents["rejected_mean_BCHW"],
            rejected_std_CHW=latents["rejected_std_BCHW"],
            caption_chosen=captions[0],
            caption_rejected=captions[1],
            prompts=captions if prompt is None else (prompt, prompt),
            chosen_image=_image_conditioning(shard, f"{prefix}chosen", row),
            rejected_image=_image_conditioning(shard, f"{prefix}rejected", row),
        )

    def bucket(self, index: int) -> int:
        """Return the bucket index of the pair at a global index. Pairs of one bucket have latents of one shape."""
        return int(self._buckets[index]) if self.index.buckets else 0

    @functools.cached_property
    def _buckets(self) -> Tensor:
        return _tensors(self.folder / BUCKETS_FILE)["bucket_N"]

    def has_captions(self) -> bool:
        """Return True if any caption differs from its pair's prompt. Reads pairs until it finds one."""
        return any(self.pair(index).is_captioned for index in range(self.index.num_pairs))

    def conditioning(self, captions: Sequence[int]) -> Conditioning:
        """Return the text states of captions by index, one row each. Index 0 is the empty caption."""
        rows = [self._caption(caption) for caption in captions]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _pair_rows(self, index: int) -> tuple[dict[str, Tensor], int]:
        """Return the tensors that hold a pair, and its row."""
        number, offset = divmod(index, self.index.spec.shard_pairs)
        return _tensors(self.folder / "pairs" / f"{number:05d}.safetensors"), offset

    def _caption_rows(self, caption: int) -> tuple[dict[str, Tensor], int]:
        """Return the tensors that hold a caption's text states, and its row."""
        number, offset = divmod(caption, self.index.captions_per_shard)
        return _tensors(self.folder / "text" / f"{number:05d}.safetensors"), offset

    def _caption(self, caption: int) -> Conditioning:
        shard, offset = self._caption_rows(caption)
        states = {name: tensor[offset] for name, tensor in shard.items()}
        _require_finite(states, f"caption {caption} of the feature cache {self.folder}")
        return states


def _image_conditioning(shard: dict[str, Tensor], side: str, offset: int) -> Conditioning:
    prefix = f"{side}_{IMAGE}"
    return {name.removeprefix(prefix): rows[offset] for name, rows in shard.items() if name.startswith(prefix)}


def _require_finite(tensors: dict[str, Tensor], origin: str) -> None:
    """ValueError naming the tensors with values that are not finite, so training does not start from NaN features."""
    bad = sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    if bad:
        raise ValueError(
            f"{', '.join(bad)} of {origin} holds values that are not finite. An encoder overflowed or its weights are"
            " broken: check the base model, and encode the snapshot again."
        )


@functools.lru_cache(maxsize=OPEN_SHARDS)
def _tensors(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of one shard: only accessed rows are read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise JobStoppedError("bad_data", f"The feature shard {path} cannot be read: {error}") from error
