"""Draw prompts x seeds as PNG images of one model: resumable, and independent of how the work is divided.

B counts images of a batch, C H W a latent, L tokens, D features. Each image starts from noise that is a function of
its seed and its prompt's index only, drawn by a CPU generator. The batch, the rank and the device therefore do not
change the image (except for rounding). Both models of a comparison start from the same noise.
"""

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignment.backbones.drawing import Drawing, drawing_of, to_images
from alignment.backbones.interface import Conditioning
from alignment.contracts.evaluation import Sampler, image_name
from alignment.files.background import BackgroundWork
from alignment.files.durable import write_bytes
from alignment.statistics.prompts import EvalPrompt

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
BLACK_LEVEL = 3
"""Largest 8-bit value of an image that counts as black."""
PNG_THREADS = 4
"""Threads that compress and write images while the next batch is drawn."""


@dataclass(frozen=True)
class ImageKey:
    """One image of a model's grid."""

    prompt: EvalPrompt
    seed: int

    @property
    def file_name(self) -> str:
        """File name in the sample folder."""
        return image_name(self.prompt.index, self.seed)


def image_grid(prompts: Sequence[EvalPrompt], seeds: Sequence[int]) -> list[ImageKey]:
    """List every image of one model, prompt by prompt, so that a batch encodes few texts."""
    return [ImageKey(prompt, seed) for prompt in prompts for seed in seeds]


def missing_images(folder: Path, grid: Iterable[ImageKey]) -> list[ImageKey]:
    """List the images not drawn yet. Files are written atomically, so a file that exists is complete."""
    return [key for key in grid if not (folder / key.file_name).is_file()]


def share_of_rank(keys: Sequence[Work], rank: int, world_size: int) -> list[Work]:
    """Return a contiguous part of the work; sizes differ by at most one, and all parts cover the work."""
    start, end = (len(keys) * position // world_size for position in (rank, rank + 1))
    return list(keys[start:end])


def sample_images(
    pipeline: Any,
    keys: Sequence[ImageKey],
    folder: Path,
    *,
    sampler: Sampler,
    resolution: int,
    micro_batch: int,
    texts: "Texts | None" = None,
    after_batch: Callable[[int], None] = lambda done: None,
) -> None:
    """Draw images into `folder` with a pipeline of a known family, using the scheduler that it carries.

    At most `micro_batch` images go through the denoiser at once. `texts` are the prompts' states; None encodes them
    with the pipeline. `after_batch` is called with the number of images that are on the disk. An image whose values are
    not finite is written black: scoring reports black images as a problem.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = texts or TextStates(drawing_of(pipeline))
    with BackgroundWork(threads=PNG_THREADS) as writes:
        for start in range(0, len(keys), micro_batch):
            batch = keys[start : start + micro_batch]
            images = to_images(draw_batch(pipeline, texts, batch, sampler=sampler, resolution=resolution))
            pairs = zip(batch, images, strict=True)
            tasks = [partial(_write_png, folder / key.file_name, image) for key, image in pairs]
            writes.submit(tasks, partial(after_batch, start + len(batch)))


def _write_png(path: Path, image: Image.Image) -> None:
    write_bytes(path, png_bytes(image))


class Texts(Protocol):
    """Text-encoder states of prompts, one row per prompt."""

    def of(self, prompts: Sequence[str]) -> Conditioning:
        """Return the states of prompts."""
        ...

    def empty(self, rows: int) -> Conditioning:
        """Return the states of the empty prompt, repeated."""
        ...


class TextStates:
    """Text-encoder states of prompts; each prompt is encoded once while its images are drawn."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._states: dict[str, Conditioning] = {}
        self._empty = self._encode([""])[""]

    def of(self, prompts: Sequence[str]) -> Conditioning:
        """Encode one row per prompt; reuse those of the batch before, since a prompt's seeds may span two batches."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._states]
        known = self._states | (self._encode(new) if new else {})
        self._states = {prompt: known[prompt] for prompt in prompts}
        return {name: torch.stack([known[prompt][name] for prompt in prompts]) for name in self._empty}

    def empty(self, rows: int) -> Conditioning:
        """Repeat the states of the empty prompt."""
        return {name: state.expand(rows, *state.shape) for name, state in self._empty.items()}

    @torch.inference_mode()
    def _encode(self, prompts: list[str]) -> dict[str, Conditioning]:
        states = self._drawing.encode(prompts)
        return {prompt: {name: rows[i] for name, rows in states.items()} for i, prompt in enumerate(prompts)}


@torch.inference_mode()
def draw_batch(pipeline: Any, texts: Texts, keys: Sequence[ImageKey], *, sampler: Sampler, resolution: int) -> Tensor:
    """Return images BCHW in [0, 1], float32 on the CPU. Guidance pushes away from the empty prompt; 1 disables it."""
    images_BCHW = drawing_of(pipeline).draw(
        _initial_latents(pipeline, keys, resolution),
        texts.of([key.prompt.text for key in keys]),
        texts.empty(len(keys)),
        sampler=sampler,
        resolution=resolution,
    )
    return images_BCHW.float().cpu()


def _initial_latents(pipeline: Any, keys: Sequence[ImageKey], resolution: int) -> Tensor:
    """Return noise BCHW of unit variance, independent for each image."""
    shape = drawing_of(pipeline).noise_shape(resolution)
    generators = [torch.Generator("cpu").manual_seed(_noise_seed(key)) for key in keys]
    noise = [torch.randn(shape, generator=generator) for generator in generators]
    # Latents have the VAE's dtype: the denoiser may compute in another one, see `drawing_precision`.
    return torch.stack(noise).to(pipeline.device, pipeline.vae.dtype)


def _noise_seed(key: ImageKey) -> int:
    """Return a 63-bit seed from the image's seed and prompt index, so that no two images of a grid share noise."""
    text = f"evaluation noise {key.seed} {key.prompt.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def png_bytes(image: Image.Image) -> bytes:
    """Save without loss."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def is_blank(image: Image.Image) -> bool:
    """Return True for an image that is black or one single colour, as a broken model or a safety filter draws it."""
    pixels_PC = np.asarray(image.convert("RGB")).reshape(-1, 3)
    low_C, high_C = pixels_PC.min(axis=0), pixels_PC.max(axis=0)
    return bool((low_C == high_C).all() or (high_C <= BLACK_LEVEL).all())
