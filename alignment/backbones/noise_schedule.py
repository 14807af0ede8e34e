"""The forward diffusion of a backbone: adding noise, and the denoiser's target.

B counts images, C H W are a latent's channels, height and width, T counts timesteps.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]
PREDICTION_TYPES = ("epsilon", "v_prediction")


class ForwardProcess(Protocol):
    """The noising of an image in training and the denoiser's target: the interface that the offline step uses."""

    def for_latent(self, height: int, width: int) -> "ForwardProcess":
        """Return the process for latents of that size. In some families the density of timesteps depends on it."""
        ...

    def on(self, device: torch.device) -> "ForwardProcess":
        """Return the process with its tensors on a device, so that no call has to copy them."""
        ...

    def draw_timestep(self, generator: torch.Generator) -> float:
        """Draw a timestep from the training density, in the denoiser's unit."""
        ...

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the latents noised to the given timesteps."""
        ...

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the denoiser's target, in the shape of the latents."""
        ...


@dataclass(frozen=True)
class NoiseSchedule:
    """Variance-preserving: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, with a_t the cumulative product of alphas."""

    alphas_cumprod_T: Tensor
    prediction_type: PredictionType

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps, which are 0 .. num_timesteps - 1."""
        return len(self.alphas_cumprod_T)

    def for_latent(self, height: int, width: int) -> "NoiseSchedule":
        """Return this schedule, which does not depend on the size."""
        del height, width
        return self

    def on(self, device: torch.device) -> "NoiseSchedule":
        """Return this schedule with its tensor on a device."""
        return replace(self, alphas_cumprod_T=self.alphas_cumprod_T.to(device))

    def draw_timestep(self, generator: torch.Generator) -> int:
        """Draw uniformly from 0 .. num_timesteps - 1."""
        return int(torch.randint(self.num_timesteps, (), generator=generator))

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the latents noised to the given timesteps."""
        signal_B111, sigma_B111 = self._scales(timesteps_B, latents_BCHW)
        return signal_B111 * latents_BCHW + sigma_B111 * noise_BCHW

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the target: the noise, or v = sqrt(a) noise - sqrt(1 - a) x_0 (Salimans and Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise_BCHW
        signal_B111, sigma_B111 = self._scales(timesteps_B, latents_BCHW)
        return signal_B111 * noise_BCHW - sigma_B111 * latents_BCHW

    def _scales(self, timesteps_B: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alphas_B = self.alphas_cumprod_T.to(like.device, like.dtype)[timesteps_B]
        alphas_B111 = alphas_B.reshape(-1, *[1] * (like.dim() - 1))
        return alphas_B111.sqrt(), (1 - alphas_B111).sqrt()


def checked_prediction_type(name: str, origin: str) -> PredictionType:
    """Check the prediction type of a scheduler's configuration. ValueError for one that training does not support."""
    if name not in PREDICTION_TYPES:
        allowed = ", ".join(PREDICTION_TYPES)
        raise ValueError(
            f"{origin} states prediction_type {name!r}. Allowed: {allowed}. Use a base model with one of these."
        )
    return cast(PredictionType, name)


def _schedule_from_betas(betas_T: Tensor, prediction_type: PredictionType) -> NoiseSchedule:
    """Build a schedule from per-step noise variances."""
    return NoiseSchedule(torch.cumprod(1.0 - betas_T, dim=0), prediction_type)
