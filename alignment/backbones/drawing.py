"""How each family's pipeline is called on text states and noise that the caller chose: all that evaluation knows.

B counts images, C H W a latent.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from alignment.backbones import sdxl
from alignment.backbones import stable_diffusion as sd
from alignment.backbones.interface import Conditioning
from alignment.contracts import Sampler


class Drawing(Protocol):
    """One pipeline's calling convention."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Text states, one row a prompt; the empty prompt is what guidance pushes away from."""

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """C, H, W of the noise that an image starts from."""

    def draw(
        self, noise_BCHW: Tensor, prompts: Conditioning, empty: Conditioning, *, sampler: Sampler, resolution: int
    ) -> Tensor:
        """Images BCHW in [0, 1]. `empty` has as many rows as `prompts`."""


class UNetDrawing:
    """Stable Diffusion 1.x and 2.x."""

    arguments: ClassVar[dict[str, str]] = {sd.TEXT_STATES: "prompt_embeds"}
    """Name of a text state to the pipeline's argument."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        states_BLD, _ = self.pipeline.encode_prompt(
            list(prompts), self.pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {sd.TEXT_STATES: states_BLD}

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """As `Drawing.noise_shape`."""
        side = resolution // self.pipeline.vae_scale_factor
        return self.pipeline.unet.config.in_channels, side, side

    def draw(
        self, noise_BCHW: Tensor, prompts: Conditioning, empty: Conditioning, *, sampler: Sampler, resolution: int
    ) -> Tensor:
        """As `Drawing.draw`, without the noise that DDIM could add."""
        states = {argument: prompts[name].to(noise_BCHW) for name, argument in self.arguments.items()}
        states |= {f"negative_{argument}": empty[name].to(noise_BCHW) for name, argument in self.arguments.items()}
        images_BCHW = self.pipeline(
            latents=noise_BCHW,
            height=resolution,
            width=resolution,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance_scale,
            eta=0.0,
            output_type="pt",
            **states,
        ).images
        return torch.as_tensor(images_BCHW)


class SDXLDrawing(UNetDrawing):
    """Stable Diffusion XL; the image is asked for uncropped, of the size it has."""

    arguments: ClassVar[dict[str, str]] = {sdxl.TEXT_STATES: "prompt_embeds", sdxl.POOLED: "pooled_prompt_embeds"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        return sdxl.text_states(self.pipeline, prompts, self.pipeline.device)


DRAWINGS: dict[type, type[UNetDrawing]] = {
    StableDiffusionPipeline: UNetDrawing,
    StableDiffusionXLPipeline: SDXLDrawing,
}


def drawing_of(pipeline: Any) -> Drawing:
    """How to call a loaded pipeline; ValueError for a class that nobody wrote down."""
    for known, drawing in DRAWINGS.items():
        if isinstance(pipeline, known):
            return drawing(pipeline)
    names = ", ".join(sorted(known.__name__ for known in DRAWINGS))
    raise ValueError(f"Cannot sample with a {type(pipeline).__name__}. Known: {names}. Add it to {__name__}.")
