"""The interface of a model family for training. B counts images or captions, C H W a latent, D features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn

from alignment.backbones.noise_schedule import ForwardProcess
from alignment.contracts.precision import FrozenWeights
from alignment.contracts.training import FullFineTune, Lora
from alignment.contracts.values import NumberFormat

DTYPES: dict[NumberFormat, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The dtype of each number format of the contracts."""

Conditioning = dict[str, Tensor]
"""Conditioning inputs of the denoiser, by name: text-encoder outputs, one row per caption, and properties of the image,
one row per image. Each backbone defines its own names."""


@dataclass(frozen=True)
class Framing:
    """Position of a training image in its original, in pixels."""

    original_height: int
    original_width: int
    """Size of the original image, before scaling."""
    crop_top: int
    crop_left: int
    """Position of the crop in the scaled image."""
    height: int
    width: int
    """Size of the training image."""


@dataclass(frozen=True)
class LatentMoments:
    """The VAE's Gaussian for each image, in the denoiser's unit, float32."""

    mean_BCHW: Tensor
    std_BCHW: Tensor


class Backbone(Protocol):
    """A base model in a local folder. Each part loads on first use, so a trainer never holds the VAE."""

    schedule: ForwardProcess
    encoder_dtype: torch.dtype
    """Dtype that VAE and text encoders compute in. Set it before either is used."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W of the latent of a training image."""
        ...

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Decode latents, in the unit that `encode_images` returns, to RGB in [0, 1], float32 on the CPU."""
        ...

    def encode_images(self, pixels_BCHW: Tensor) -> LatentMoments:
        """Encode RGB in [-1, 1], float32 or the encoders' dtype, to latent moments."""
        ...

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """Encode captions to text-encoder states, padded to the tokenizer's maximum length. Longer captions are cut."""
        ...

    def release_text_encoders(self) -> None:
        """Free the memory of the text encoders. They load again when a caption is encoded."""

    def image_conditioning(self, framings: Sequence[Framing]) -> Conditioning:
        """Return the conditioning of each image besides its caption, one row per image. Empty for most families."""
        ...

    def load_denoiser(self, device: torch.device | None = None, storage: FrozenWeights = "fp32") -> nn.Module:
        """Load a new copy of the base denoiser, with every weight frozen, on `device` or on the backbone's.

        Matrices are in `storage`, which needs autocast unless it is fp32; see `Recipe.frozen_weights`.
        """
        ...

    def predict(
        self, denoiser: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the denoiser's prediction, in the shape of its input."""
        ...

    def attach(self, denoiser: nn.Module, tuning: Lora | FullFineTune, seed: int) -> None:
        """Unfreeze the trained part, in place. Adapters are initialised from `seed` and start as the identity."""

    def set_adapter(self, denoiser: nn.Module, *, enabled: bool) -> None:
        """Switch a LoRA on or off, in place. When it is off, the denoiser equals the base."""

    def save_weights(self, denoiser: nn.Module, tuning: Lora | FullFineTune, folder: Path) -> None:
        """Write the trained part in diffusers' layout. Equal weights give equal bytes."""

    def sampler(self, denoiser: nn.Module, device: torch.device, prompts: Sequence[str]) -> "_GridSampler":
        """Return a sampler of these prompts that uses this denoiser, not a copy.

        Their text states are kept, so text encoders load only for prompts that are new.
        """
        ...


class _GridSampler(Protocol):
    """Generates one image per prompt from fixed noise."""

    def draw(self, prompt: str, seed: int, steps: int, *, guidance_scale: float) -> Image:
        """Generate one RGB image."""
        ...
