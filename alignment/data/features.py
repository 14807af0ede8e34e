"""The feature cache: latent moments of every image, text states of every distinct caption, in memory-mapped shards.

    index.json                 what is there (`CacheIndex`)
    pairs/00000.safetensors    {chosen,rejected}_{mean,std}_BCHW, caption_{chosen,rejected}_B of `shard_pairs` pairs,
                               prompt_B where images of the snapshot have captions that are not just the prompt, and
                               {chosen,rejected}_image_NAME where the backbone's denoiser is told of each image
    text/00000.safetensors     text states of `captions_per_shard` captions; caption 0 is the empty one

A shard is encoded whole by one process, in pieces of fixed size, and published in one step: the bytes do not depend on
the number of processes, and a run that was cut short goes on with the shards that are missing.
B counts pairs or captions, C H W a latent.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alignment.backbones.interface import Backbone, Conditioning
from alignment.contracts import EncodeSpec
from alignment.data.pairs import Pair, TrainingPairs, framed
from alignment.durable import write_json
from alignment.failures import JobStoppedError
from alignment.tensor_files import write_tensors

Item = TypeVar("Item")

INDEX_FILE = "index.json"
CAPTIONS_PER_SHARD = 256
PAIRS_AT_ONCE = 8
"""Pairs in one pass of the VAE. Part of the numbers' definition (kernels choose their order of summation by the size of
the batch), hence no setting of the placement."""
CAPTIONS_AT_ONCE = 32
OPEN_SHARDS = 256
SIDES = ("chosen", "rejected")
MOMENTS = tuple(f"{side}_{moment}_BCHW" for side in SIDES for moment in ("mean", "std"))
IMAGE = "image_"


class CacheIndex(BaseModel):
    """index.json: how to find a pair or a caption, and what the numbers were made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: EncodeSpec
    num_pairs: int
    num_captions: int
    captions_per_shard: int = CAPTIONS_PER_SHARD
    latent_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Shard:
    """One file to write: its place under the cache, and the pairs or captions that it holds."""

    kind: str
    number: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """Path under the cache folder."""
        return f"{self.kind}/{self.number:05d}.safetensors"


# --- writing --------------------------------------------------------------------------------------------------------


class FeatureWriter:
    """Encodes a snapshot's pairs shard by shard; any number of processes may share the work."""

    def __init__(self, pairs: TrainingPairs, backbone: Backbone, spec: EncodeSpec, out: Path) -> None:
        self.pairs = pairs
        self.backbone = backbone
        self.spec = spec
        self.out = out
        self.num_captioned = pairs.num_captioned
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
        """Shards already on disk, whoever wrote them."""
        return sum((self.out / shard.name).is_file() for shard in self.shards)

    def finish(self) -> CacheIndex:
        """Write index.json once every shard is there."""
        first = _tensors(self.out / "pairs" / "00000.safetensors")["chosen_mean_BCHW"]
        _, channels, height, width = first.shape
        index = CacheIndex(
            spec=self.spec,
            num_pairs=len(self.pairs),
            num_captions=len(self.captions),
            latent_shape=(channels, height, width),
        )
        write_json(self.out / INDEX_FILE, index.model_dump(mode="json"))
        return index

    def files(self) -> list[Path]:
        """Every file of the finished cache."""
        return [self.out / INDEX_FILE, *(self.out / shard.name for shard in self.shards)]

    def _text(self, shard: Shard) -> dict[str, Tensor]:
        captions = self.captions[shard.first : shard.last]
        parts = [self.backbone.encode_captions(piece) for piece in _pieces(captions, CAPTIONS_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _pairs(self, shard: Shard) -> dict[str, Tensor]:
        indices = range(shard.first, shard.last)
        parts = [self._moments([self.pairs.pair(i) for i in piece]) for piece in _pieces(indices, PAIRS_AT_ONCE)]
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        captions = torch.tensor([[self._caption_index[text] for text in self.pairs.captions[i]] for i in indices])
        tensors["caption_chosen_B"], tensors["caption_rejected_B"] = captions[:, 0], captions[:, 1]
        if self.num_captioned:
            tensors["prompt_B"] = torch.tensor([self._caption_index[self.pairs.prompts[i]] for i in indices])
        return tensors

    def _moments(self, pairs: list[Pair]) -> dict[str, Tensor]:
        side = self.spec.backbone.resolution
        chosen = [framed(pair.image_chosen, side, f"image_chosen of pair {pair.pair_id}") for pair in pairs]
        rejected = [framed(pair.image_rejected, side, f"image_rejected of pair {pair.pair_id}") for pair in pairs]
        moments = self.backbone.encode_images(torch.stack([image.pixels_CHW for image in chosen + rejected]))
        told = self.backbone.image_conditioning([image.framing for image in chosen + rejected])
        both = {"mean_BCHW": moments.mean_BCHW, "std_BCHW": moments.std_BCHW}
        both |= {f"{IMAGE}{name}": rows for name, rows in told.items()}
        return {
            f"{which}_{name}": half
            for name, rows in both.items()
            for which, half in zip(SIDES, rows.chunk(2), strict=True)
        }


def _shards(kind: str, count: int, size: int) -> Iterator[Shard]:
    for number, first in enumerate(range(0, count, size)):
        yield Shard(kind, number, first, min(first + size, count))


def _pieces(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CachedPair:
    """Latent moments of one pair, and which captions belong to its images."""

    chosen_mean_CHW: Tensor
    chosen_std_CHW: Tensor
    rejected_mean_CHW: Tensor
    rejected_std_CHW: Tensor
    caption_chosen: int
    caption_rejected: int
    prompts: tuple[int, int]
    """The prompt, once a side. Where the cache keeps no prompts these are the captions: the prompt itself, unless the
    cache was encoded from captioned images before prompts were kept."""
    chosen_image: Conditioning
    rejected_image: Conditioning
    """What the denoiser is told of each image beside its caption, without the leading dimension."""

    @property
    def is_captioned(self) -> bool:
        """Whether an image has a caption that is not just the prompt."""
        captions = (self.caption_chosen, self.caption_rejected)
        return captions != self.prompts or self.caption_chosen != self.caption_rejected


class CachedFeatures:
    """A finished cache folder, memory-mapped.

    Raises JobStoppedError (bad_data) when a file is missing or damaged, ValueError when the cache is empty or a number
    that is read is not finite.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            text = (folder / INDEX_FILE).read_text(encoding="utf-8")
            self.index = CacheIndex.model_validate(json.loads(text))
        except (OSError, json.JSONDecodeError, ValidationError) as error:
            raise JobStoppedError("bad_data", f"{folder} is not a feature cache: {error}") from error
        if self.index.num_pairs < 1:
            raise ValueError(f"The feature cache {folder} holds no pairs. Encode a snapshot that has some.")

    def pair(self, index: int) -> CachedPair:
        """The pair at a global index."""
        number, offset = divmod(index, self.index.spec.shard_pairs)
        shard = _tensors(self.folder / "pairs" / f"{number:05d}.safetensors")
        latents = {name: shard[name][offset] for name in MOMENTS}
        _require_finite(latents, f"pair {index} of the feature cache {self.folder}")
        captions = (int(shard["caption_chosen_B"][offset]), int(shard["caption_rejected_B"][offset]))
        prompt = int(shard["prompt_B"][offset]) if "prompt_B" in shard else None
        return CachedPair(
            chosen_mean_CHW=latents["chosen_mean_BCHW"],
            chosen_std_CHW=latents["chosen_std_BCHW"],
            rejected_mean_CHW=latents["rejected_mean_BCHW"],
            rejected_std_CHW=latents["rejected_std_BCHW"],
            caption_chosen=captions[0],
            caption_rejected=captions[1],
            prompts=captions if prompt is None else (prompt, prompt),
            chosen_image=_told(shard, "chosen", offset),
            rejected_image=_told(shard, "rejected", offset),
        )

    def has_captions(self) -> bool:
        """Whether any image has a caption that is not just its pair's prompt; looks until it finds one."""
        return any(self.pair(index).is_captioned for index in range(self.index.num_pairs))

    def conditioning(self, captions: Sequence[int]) -> Conditioning:
        """Text states of captions by index, one row each; 0 is the empty caption."""
        rows = [self._caption(caption) for caption in captions]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _caption(self, caption: int) -> Conditioning:
        number, offset = divmod(caption, self.index.captions_per_shard)
        shard = _tensors(self.folder / "text" / f"{number:05d}.safetensors")
        states = {name: tensor[offset] for name, tensor in shard.items()}
        _require_finite(states, f"caption {caption} of the feature cache {self.folder}")
        return states


def _told(shard: dict[str, Tensor], side: str, offset: int) -> Conditioning:
    prefix = f"{side}_{IMAGE}"
    return {name.removeprefix(prefix): rows[offset] for name, rows in shard.items() if name.startswith(prefix)}


def _require_finite(tensors: dict[str, Tensor], origin: str) -> None:
    """ValueError naming what is not finite: no learning rate can answer for a feature that is no number."""
    bad = sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    if bad:
        raise ValueError(
            f"{', '.join(bad)} of {origin} holds values that are not finite. An encoder overflowed or its weights are"
            " broken: check the base model, and encode the snapshot again."
        )


@functools.lru_cache(maxsize=OPEN_SHARDS)
def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one shard, mapped: only the rows that are touched are read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise JobStoppedError("bad_data", f"The feature shard {path} cannot be read: {error}") from error
