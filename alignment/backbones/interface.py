"""What training asks of a model family. B counts images or captions, C H W a latent, D features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn

from alignment.backbones.noise_schedule import ForwardProcess
from alignment.contracts.training import FullFineTune, Lora

Conditioning = dict[str, Tensor]
"""What the denoiser is told, by name: text-encoder outputs, one row a caption, and facts of the image, one row an
image. The names are the backbone's own affair."""


@dataclass(frozen=True)
class Framing:
    """How a training image was cut from its original, in pixels."""

    original_height: int
    original_width: int
    """Of the image as it came, before scaling."""
    crop_top: int
    crop_left: int
    """Of the cut, in the scaled image."""
    height: int
    width: int
    """Of the training image."""


@dataclass(frozen=True)
class LatentMoments:
    """The VAE's Gaussian of each image, already times the scaling factor, float32."""

    mean_BCHW: Tensor
    std_BCHW: Tensor


class Backbone(Protocol):
    """A base model in a local folder. Parts load when first asked for, so a trainer never holds the VAE."""

    schedule: ForwardProcess

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W of the latent of a training image."""

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Latents, in the unit that `encode_images` gives, to RGB in [0, 1], float32 on the CPU."""

    def encode_images(self, pixels_BCHW: Tensor) -> LatentMoments:
        """RGB in [-1, 1], float32, to latent moments."""

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """Captions to text-encoder states, padded to the tokenizer's longest; longer ones are cut."""

    def image_conditioning(self, framings: Sequence[Framing]) -> Conditioning:
        """What the denoiser is told of each image beside its caption, one row an image; empty for most families."""

    def load_denoiser(self) -> nn.Module:
        """A fresh copy of the base denoiser, float32, every weight frozen."""

    def predict(
        self, denoiser: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The denoiser's answer, in the shape of its input."""

    def attach(self, denoiser: nn.Module, tuning: Lora | FullFineTune, seed: int) -> None:
        """Make the trainable part trainable, in place; adapters start as the identity, drawn from `seed`."""

    def set_adapter(self, denoiser: nn.Module, *, enabled: bool) -> None:
        """Switch a LoRA on or off, in place; off, the denoiser is the base again."""

    def save_weights(self, denoiser: nn.Module, tuning: Lora | FullFineTune, folder: Path) -> None:
        """Write the trained part in diffusers' layout; equal weights give equal bytes."""

    def sampler(self, denoiser: nn.Module, device: torch.device) -> "GridSampler":
        """Draws images with this very denoiser (not a copy)."""


class GridSampler(Protocol):
    """Draws one image a prompt from fixed noise."""

    def draw(self, prompt: str, seed: int, steps: int, *, guidance_scale: float) -> Image:
        """One RGB image."""
