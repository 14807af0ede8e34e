"""How each family's pipeline is called on text states and noise that the caller chose: all that evaluation knows.

B counts images, C H W a latent.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from alignment.backbones import flux, sd3, sdxl
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


class StableDiffusionDrawing:
    """Stable Diffusion 1.x and 2.x."""

    arguments: ClassVar[dict[str, str]] = {sd.TEXT_STATES: "prompt_embeds"}
    """Name of a text state to the pipeline's argument."""

    steps: ClassVar[dict[str, Any]] = {"eta": 0.0}
    """Arguments of the scheduler; DDIM adds no noise."""

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


class SDXLDrawing(StableDiffusionDrawing):
    """Stable Diffusion XL; the image is asked for uncropped, of the size it has."""

    arguments: ClassVar[dict[str, str]] = {sdxl.TEXT_STATES: "prompt_embeds", sdxl.POOLED: "pooled_prompt_embeds"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        return sdxl.text_states(self.pipeline, prompts, self.pipeline.device)


class StableDiffusion3Drawing(StableDiffusionDrawing):
    """Stable Diffusion 3 and 3.5."""

    arguments: ClassVar[dict[str, str]] = {sd3.TEXT_STATES: "prompt_embeds", sd3.POOLED: "pooled_prompt_embeds"}
    steps: ClassVar[dict[str, Any]] = {}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        return sd3.text_states(self.pipeline, prompts, self.pipeline.device)

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """As `Drawing.noise_shape`."""
        side = resolution // self.pipeline.vae_scale_factor
        return self.pipeline.transformer.config.in_channels, side, side


class FluxDrawing:
    """FLUX.1. Guidance is a number that the denoiser is told; nothing is pushed away from."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        return flux.text_states(self.pipeline, prompts, self.pipeline.device)

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """As `Drawing.noise_shape`; before packing."""
        side = resolution // self.pipeline.vae_scale_factor
        return self.pipeline.transformer.config.in_channels // 4, side, side

    def draw(
        self, noise_BCHW: Tensor, prompts: Conditioning, empty: Conditioning, *, sampler: Sampler, resolution: int
    ) -> Tensor:
        """As `Drawing.draw`."""
        del empty
        images_BCHW = self.pipeline(
            prompt_embeds=prompts[flux.TEXT_STATES].to(noise_BCHW),
            pooled_prompt_embeds=prompts[flux.POOLED].to(noise_BCHW),
            latents=flux.pack(noise_BCHW),
            height=resolution,
            width=resolution,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance_scale,
            output_type="pt",
        ).images
        return torch.as_tensor(images_BCHW)


DRAWINGS: dict[type, Callable[[Any], Drawing]] = {
    StableDiffusionPipeline: StableDiffusionDrawing,
    StableDiffusionXLPipeline: SDXLDrawing,
    StableDiffusion3Pipeline: StableDiffusion3Drawing,
    FluxPipeline: FluxDrawing,
}


def drawing_of(pipeline: Any) -> Drawing:
    """How to call a loaded pipeline; ValueError for a class that nobody wrote down."""
    for known, drawing in DRAWINGS.items():
        if isinstance(pipeline, known):
            return drawing(pipeline)
    names = ", ".join(sorted(known.__name__ for known in DRAWINGS))
    raise ValueError(f"Cannot sample with a {type(pipeline).__name__}. Known: {names}. Add it to {__name__}.")
