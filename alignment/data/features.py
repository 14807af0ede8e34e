"""The feature cache: latent moments of every image, text states of every distinct caption, in memory-mapped shards.

    index.json                 what is there (`CacheIndex`)
    pairs/00000.safetensors    {chosen,rejected}_{mean,std}_BCHW, caption_{chosen,rejected}_B of `shard_pairs` pairs,
                               prompt_B if captions of the snapshot differ from the prompt, and
                               {chosen,rejected}_image_NAME if the backbone conditions its denoiser on each image.
                               With aspect buckets, moments and image_NAME are stored by bucket, as WxH/NAME, with
                               bucket_B and place_B: a pair's bucket, and its row among the shard's pairs of that bucket
    images/00000.safetensors   only if images are stored once: {mean,std}_BCHW and image_NAME of `images_per_shard`
                               images, by bucket as above. A pair then has image_{chosen,rejected}_B, the indices of its
                               images, in place of moments and image_NAME
    buckets.safetensors        bucket_N of all pairs; only with aspect buckets
    text/00000.safetensors     text states of `captions_per_shard` captions; caption 0 is the empty one

Moments are float32 or bfloat16. `feature_writing` writes the files, this module reads them.
B counts pairs, images or captions of a shard, N pairs of the cache, C H W a latent.
"""

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alignment.backbones.interface import Conditioning
from alignment.catalogues.images import Bucket
from alignment.contracts.data import EncodeSpec
from alignment.contracts.jobs import JobStoppedError
from alignment.contracts.values import Record

INDEX_FILE = "index.json"
BUCKETS_FILE = "buckets.safetensors"
CAPTIONS_PER_SHARD = 256
OPEN_SHARDS = 256
SIDES = ("chosen", "rejected")
MOMENTS = ("mean", "std")
IMAGE = "image_"


class BucketCount(Record):
    """A bucket of the cache, with its number of pairs."""

    width: int
    height: int
    num_pairs: int


class CacheIndex(Record):
    """index.json: the layout of the cache, and the spec it was encoded from."""

    spec: EncodeSpec
    num_pairs: int
    num_captions: int
    captions_per_shard: int = CAPTIONS_PER_SHARD
    latent_shape: tuple[int, int, int]
    """C, H, W of a latent; with aspect buckets, that of the square whose area they fill."""
    buckets: tuple[BucketCount, ...] = Field(default=(), exclude_if=operator.not_)
    """Every aspect bucket, including empty ones; empty if all images are squares."""
    num_images: int = Field(default=0, exclude_if=operator.not_)
    """Number of images that are stored once; 0 if they are stored with each pair."""
    images_per_shard: int = Field(default=0, exclude_if=operator.not_)


def bucket_prefix(bucket: Bucket | BucketCount) -> str:
    """Return the prefix of the names of a bucket's tensors in a shard."""
    return f"{bucket.width}x{bucket.height}/"


@dataclass(frozen=True)
class _CachedImage:
    """Latent moments of one image, float32, and its conditioning besides its caption, without the batch dimension."""

    mean_CHW: Tensor
    std_CHW: Tensor
    conditioning: Conditioning


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
            self.index = CacheIndex.model_validate(json.loads(text))
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
        chosen, rejected = (self._image(index, shard, offset, side=side) for side in SIDES)
        return _CachedPair(
            chosen_mean_CHW=chosen.mean_CHW,
            chosen_std_CHW=chosen.std_CHW,
            rejected_mean_CHW=rejected.mean_CHW,
            rejected_std_CHW=rejected.std_CHW,
            caption_chosen=captions[0],
            caption_rejected=captions[1],
            prompts=captions if prompt is None else (prompt, prompt),
            chosen_image=chosen.conditioning,
            rejected_image=rejected.conditioning,
        )

    def _image(self, pair: int, shard: dict[str, Tensor], offset: int, *, side: str) -> _CachedImage:
        """Return one image of a pair: from the pair's own row, or from the shard of images that the row refers to."""
        name = f"{side}_"
        if self.index.num_images:
            (shard, offset), name = self._image_rows(int(shard[f"image_{side}_B"][offset])), ""
        row = offset
        if self.index.buckets:
            name = bucket_prefix(self.index.buckets[int(shard["bucket_B"][offset])]) + name
            row = int(shard["place_B"][offset])
        moments = {moment: shard[f"{name}{moment}_BCHW"][row].float() for moment in MOMENTS}
        origin = f"pair {pair} of the feature cache {self.folder}"
        require_finite({f"{side}_{moment}_BCHW": values for moment, values in moments.items()}, origin)
        return _CachedImage(moments["mean"], moments["std"], _image_conditioning(shard, name, row))

    def bucket(self, index: int) -> int:
        """Return the bucket index of the pair at a global index. Pairs of one bucket have latents of one shape."""
        return int(self._buckets[index]) if self.index.buckets else 0

    @functools.cached_property
    def _buckets(self) -> Tensor:
        return read_shard(self.folder / BUCKETS_FILE)["bucket_N"]

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
        return read_shard(self.folder / "pairs" / f"{number:05d}.safetensors"), offset

    def _image_rows(self, image: int) -> tuple[dict[str, Tensor], int]:
        """Return the tensors that hold an image that is stored once, and its row."""
        number, offset = divmod(image, self.index.images_per_shard)
        return read_shard(self.folder / "images" / f"{number:05d}.safetensors"), offset

    def _caption_rows(self, caption: int) -> tuple[dict[str, Tensor], int]:
        """Return the tensors that hold a caption's text states, and its row."""
        number, offset = divmod(caption, self.index.captions_per_shard)
        return read_shard(self.folder / "text" / f"{number:05d}.safetensors"), offset

    def _caption(self, caption: int) -> Conditioning:
        shard, offset = self._caption_rows(caption)
        states = {name: tensor[offset] for name, tensor in shard.items()}
        require_finite(states, f"caption {caption} of the feature cache {self.folder}")
        return states


def _image_conditioning(shard: dict[str, Tensor], name: str, offset: int) -> Conditioning:
    prefix = f"{name}{IMAGE}"
    return {name.removeprefix(prefix): rows[offset] for name, rows in shard.items() if name.startswith(prefix)}


def require_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """ValueError naming the tensors with values that are not finite, so training does not start from NaN features."""
    bad = sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    if bad:
        raise ValueError(
            f"{', '.join(bad)} of {origin} holds values that are not finite. An encoder overflowed or its weights are"
            " broken: check the base model, and encode the snapshot again."
        )


@functools.lru_cache(maxsize=OPEN_SHARDS)
def read_shard(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of one shard: only accessed rows are read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise JobStoppedError("bad_data", f"The feature shard {path} cannot be read: {error}") from error
