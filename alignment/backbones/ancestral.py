"""Reverse diffusion as a chain of Gaussians: strided ancestral sampling (DDPM; equal to DDIM with eta = 1).

B counts images, C H W are a latent's channels, height and width, N counts the schedule's timesteps.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.backbones.noise_schedule import NoiseSchedule

STEPS_OFFSET = 1
"""Offset of Stable Diffusion's schedulers: the last sampling step starts at timestep 1."""


@dataclass(frozen=True)
class Gaussian:
    """Density of the next latent, with one variance per image. float64, because ratios of densities are close to 1."""

    mean_BCHW: Tensor
    variance_B: Tensor

    def log_prob(self, latents_BCHW: Tensor) -> Tensor:
        """Return the log-density of each image's latent, averaged (not summed) over C, H, W, in nats."""
        squared_B = (latents_BCHW.double() - self.mean_BCHW).square().flatten(1).mean(dim=1)
        return -0.5 * (squared_B / self.variance_B + torch.log(2 * math.pi * self.variance_B))

    def draw(self, noise_BCHW: Tensor) -> Tensor:
        """Map standard normal noise to a latent, in the noise's dtype."""
        deviation_B111 = self.variance_B.sqrt().reshape(-1, 1, 1, 1)
        return (self.mean_BCHW + deviation_B111 * noise_BCHW.double()).to(noise_BCHW.dtype)


def sampling_timesteps(num_timesteps: int, num_steps: int) -> list[tuple[int, int]]:
    """List (timestep, timestep after the step) from noise to image, evenly spaced. The last step ends at 0.

    Raises ValueError when the schedule has fewer timesteps than there are steps.
    """
    stride = num_timesteps // num_steps
    if stride <= STEPS_OFFSET:
        raise ValueError(
            f"{num_steps} sampler steps are too many for a schedule of {num_timesteps} timesteps. Use at most"
            f" {num_timesteps // (STEPS_OFFSET + 1)}."
        )
    starts = [number * stride + STEPS_OFFSET for number in reversed(range(num_steps))]
    return [(start, max(0, start - stride)) for start in starts]


def predicted_image(
    schedule: NoiseSchedule, prediction_BCHW: Tensor, latents_BCHW: Tensor, timesteps_B: Tensor
) -> Tensor:
    """Return the clean latent that a denoiser's prediction implies, float64, without clipping."""
    kept_B111 = _alphas(schedule, timesteps_B)
    signal_B111, sigma_B111 = kept_B111.sqrt(), (1 - kept_B111).sqrt()
    if schedule.prediction_type == "epsilon":
        return (latents_BCHW.double() - sigma_B111 * prediction_BCHW.double()) / signal_B111
    return signal_B111 * latents_BCHW.double() - sigma_B111 * prediction_BCHW.double()


def next_latent(
    schedule: NoiseSchedule, prediction_BCHW: Tensor, latents_BCHW: Tensor, *, timesteps_B: Tensor, next_B: Tensor
) -> Gaussian:
    """Return the posterior q(x_next | x_t, x_0) at the predicted x_0 (Ho et al. 2020, eq. 7, over a stride).

    Its variance is 0 where a step starts at timestep 0. For the sampler's last step, which ends at 0, use
    `predicted_image` instead: that step has no usable density.
    """
    kept_B111, kept_next_B111 = _alphas(schedule, timesteps_B), _alphas(schedule, next_B)
    stride_B111 = kept_B111 / kept_next_B111
    image_BCHW = predicted_image(schedule, prediction_BCHW, latents_BCHW, timesteps_B)
    of_image_B111 = kept_next_B111.sqrt() * (1 - stride_B111) / (1 - kept_B111)
    of_latent_B111 = stride_B111.sqrt() * (1 - kept_next_B111) / (1 - kept_B111)
    variance_B111 = (1 - kept_next_B111) / (1 - kept_B111) * (1 - stride_B111)
    return Gaussian(of_image_B111 * image_BCHW + of_latent_B111 * latents_BCHW.double(), variance_B111.flatten())


def _alphas(schedule: NoiseSchedule, timesteps_B: Tensor) -> Tensor:
    alphas_N = schedule.alphas_cumprod_T.to(timesteps_B.device, torch.float64)
    return alphas_N[timesteps_B].reshape(-1, 1, 1, 1)
