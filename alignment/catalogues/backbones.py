"""The model families: one frozen params class for each."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from alignment.catalogues.record import Record

SchedulerName = Literal["ddim", "flow_euler"]
"""Deterministic DDIM, or Euler steps along the flow of the base's own scheduler."""


class BackboneParams(Record):
    """Settings of every backbone. `implementation` is imported only where torch is installed."""

    implementation: ClassVar[str]
    scheduler: ClassVar[SchedulerName] = "ddim"
    """Scheduler that evaluation images are generated with."""


class StableDiffusion(BackboneParams):
    """Stable Diffusion 1.x and 2.x: one text encoder, UNet, epsilon or v prediction as its scheduler states."""

    implementation: ClassVar[str] = "alignment.backbones.stable_diffusion:StableDiffusionBackbone"

    name: Literal["stable_diffusion"] = "stable_diffusion"
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] = 512
    """Side of the square training image, pixels."""


class SDXL(BackboneParams):
    """Stable Diffusion XL base: two text encoders, UNet conditioned on sizes and crops, epsilon or v prediction."""

    implementation: ClassVar[str] = "alignment.backbones.sdxl:SDXLBackbone"

    name: Literal["sdxl"] = "sdxl"
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] = 1024
    """Side of the square training image, pixels."""


class StableDiffusion3(BackboneParams):
    """Stable Diffusion 3 and 3.5: two CLIPs and, if the base has it, T5; transformer, flow matching."""

    implementation: ClassVar[str] = "alignment.backbones.sd3:StableDiffusion3Backbone"
    scheduler: ClassVar[SchedulerName] = "flow_euler"

    name: Literal["sd3"] = "sd3"
    resolution: Annotated[int, Field(ge=64, multiple_of=16)] = 1024
    """Side of the square training image, pixels."""


class Flux(BackboneParams):
    """FLUX.1: T5 and the pooled state of CLIP; transformer, flow matching on packed latents."""

    implementation: ClassVar[str] = "alignment.backbones.flux:FluxBackbone"
    scheduler: ClassVar[SchedulerName] = "flow_euler"

    name: Literal["flux"] = "flux"
    resolution: Annotated[int, Field(ge=64, multiple_of=16)] = 1024
    """Side of the square training image, pixels."""
    guidance: Annotated[float, Field(ge=1)] = 3.5
    """Guidance input of a distilled denoiser (FLUX.1-dev) in training: 3.5 as in diffusers' script, and common in
    sampling. A denoiser without guidance input (schnell) ignores it."""


BACKBONES: tuple[type[BackboneParams], ...] = (StableDiffusion, SDXL, StableDiffusion3, Flux)
Backbone = Annotated[StableDiffusion | SDXL | StableDiffusion3 | Flux, Field(discriminator="name")]
