"""The model families: a frozen params class each."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class BackboneParams(BaseModel):
    """What every backbone states. `implementation` is imported only where torch is at hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    implementation: ClassVar[str]


class StableDiffusion(BackboneParams):
    """Stable Diffusion 1.x and 2.x: one text encoder, UNet, epsilon or v prediction as the scheduler's config says."""

    implementation: ClassVar[str] = "alignment.backbones.stable_diffusion:StableDiffusionBackbone"

    name: Literal["stable_diffusion"] = "stable_diffusion"
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] = 512
    """Side of the square training image, pixels."""


class SDXL(BackboneParams):
    """Stable Diffusion XL, the base: two text encoders, UNet told of sizes and crops, epsilon or v prediction."""

    implementation: ClassVar[str] = "alignment.backbones.sdxl:SDXLBackbone"

    name: Literal["sdxl"] = "sdxl"
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] = 1024
    """Side of the square training image, pixels."""


BACKBONES: tuple[type[BackboneParams], ...] = (StableDiffusion, SDXL)
Backbone = Annotated[StableDiffusion | SDXL, Field(discriminator="name")]
