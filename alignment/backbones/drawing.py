"""The interface that evaluation uses to call each family's pipeline on the caller's text states and noise.

Each family's file holds its calling convention, so only the family in use is imported. B counts images, C H W a
latent.
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignment.backbones.interface import Conditioning
from alignment.catalogues.lookup import resolve
from alignment.contracts.evaluation import Sampler

DRAWINGS = {
    "StableDiffusionPipeline": "alignment.backbones.stable_diffusion:StableDiffusionDrawing",
    "StableDiffusionXLPipeline": "alignment.backbones.sdxl:SDXLDrawing",
    "StableDiffusion3Pipeline": "alignment.backbones.sd3:StableDiffusion3Drawing",
    "FluxPipeline": "alignment.backbones.flux:FluxDrawing",
}
"""Name of a pipeline class to the `Drawing` that calls it. Subclasses use the same one."""


class Drawing(Protocol):
    """Calling convention of one pipeline class."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Return text states, one row per prompt. The empty prompt gives the negative states for guidance."""
        ...

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return C, H, W of an image's starting noise."""
        ...

    def draw(
        self, noise_BCHW: Tensor, prompts: Conditioning, empty: Conditioning, *, sampler: Sampler, resolution: int
    ) -> Tensor:
        """Generate images BCHW in [0, 1]. `empty` has as many rows as `prompts`."""
        ...


class GuidedDrawing:
    """Pipelines that accept text states and, for guidance, negative text states as named arguments."""

    arguments: ClassVar[dict[str, str]]
    """Name of a text state to the name of the pipeline's argument."""

    steps: ClassVar[dict[str, Any]] = {}
    """Arguments of the scheduler."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def draw(
        self, noise_BCHW: Tensor, prompts: Conditioning, empty: Conditioning, *, sampler: Sampler, resolution: int
    ) -> Tensor:
        """As `Drawing.draw`."""
        states = {argument: prompts[name].to(noise_BCHW) for name, argument in self.arguments.items()}
        states |= {f"negative_{argument}": empty[name].to(noise_BCHW) for name, argument in self.arguments.items()}
        images_BCHW = self.pipeline(
            latents=noise_BCHW,
            height=resolution,
            width=resolution,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance_scale,
            output_type="pt",
            **states,
            **self.steps,
        ).images
        return torch.as_tensor(images_BCHW)


def drawing_of(pipeline: Any) -> Drawing:
    """Return the `Drawing` of a loaded pipeline. ValueError for a class that DRAWINGS does not list."""
    for known in type(pipeline).__mro__:
        if known.__name__ in DRAWINGS:
            drawing: Drawing = resolve(DRAWINGS[known.__name__])(pipeline)
            return drawing
    names = ", ".join(sorted(DRAWINGS))
    raise ValueError(f"Cannot sample with a {type(pipeline).__name__}. Known: {names}. Add it to {__name__}.")


logger = logging.getLogger(__name__)


def to_images(images_BCHW: Tensor) -> list[Image.Image]:
    """Convert to 8-bit RGB. An image with any value that is not finite becomes completely black."""
    finite_B = images_BCHW.isfinite().all(dim=3).all(dim=2).all(dim=1)
    if not finite_B.all():
        logger.warning(
            "%d images contain values that are not finite and are written as black images", int((~finite_B).sum())
        )
    clean_BCHW = torch.where(finite_B[:, None, None, None], images_BCHW, torch.zeros(()))
    bytes_BHWC = (clean_BCHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in bytes_BHWC]
