"""Flow matching (rectified flow): straight lines from images to noise, as SD3 and FLUX are trained.

B counts images, C H W are a latent's channels, height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TIMESTEPS_PER_UNIT = 1000.0
LATENT_PIXELS_PER_TOKEN = 4
"""SD3 and FLUX split a latent into patches of 2 x 2."""


@dataclass(frozen=True)
class FlowMatchingSchedule:
    """x_t = (1 - s) x_0 + s noise, with s in (0, 1) the share of noise. The denoiser gets 1000 s as its timestep.

    Source: Esser et al. 2024, arXiv:2403.03206: the path of eq. 13, the logit-normal density of eq. 19, the shift of
    eq. 23. Diffusion-DPO has no official version for flow matching. As in the public one (flow_grpo's
    train_sd3_dpo.py), the target is noise - x_0, with one noise and one s per pair.
    """

    density_mean: float = 0.0
    density_std: float = 1.0
    """Standard deviation of the normal distribution whose logistic function is s."""
    shift: float = 1.0
    """Shift of s towards noise, s -> shift s / (1 + (shift - 1) s); `shift` in the scheduler's configuration."""
    shift_of_tokens: Callable[[int], float] | None = None
    """Shift as a function of the image's length in tokens; None if it does not depend on the length."""

    def __post_init__(self) -> None:
        if self.density_std <= 0 or self.shift <= 0:
            raise ValueError(
                f"Flow matching with density_std {self.density_std} and shift {self.shift}: both must be above 0."
                " Fix the scheduler's configuration."
            )

    def for_latent(self, height: int, width: int) -> "FlowMatchingSchedule":
        """Return the process with the shift for latents of that size."""
        if self.shift_of_tokens is None:
            return self
        return replace(self, shift=self.shift_of_tokens(height * width // LATENT_PIXELS_PER_TOKEN))

    def on(self, device: torch.device) -> "FlowMatchingSchedule":
        """Return this process, which has no tensors."""
        del device
        return self

    def draw_timestep(self, generator: torch.Generator) -> float:
        """Draw a logit-normal value, shifted, times 1000. Each draw uses one number of the generator."""
        normal = torch.randn((), generator=generator, dtype=torch.float64) * self.density_std + self.density_mean
        share = torch.sigmoid(normal)
        return float(TIMESTEPS_PER_UNIT * self.shift * share / (1 + (self.shift - 1) * share))

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the noised latents."""
        share_B111 = _shares(timesteps_B, latents_BCHW)
        return (1 - share_B111) * latents_BCHW + share_B111 * noise_BCHW

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the velocity, noise - x_0, which is the same at every timestep."""
        del timesteps_B
        return noise_BCHW - latents_BCHW


def _shares(timesteps_B: Tensor, like: Tensor) -> Tensor:
    shares_B = (timesteps_B.to(like.device, torch.float32) / TIMESTEPS_PER_UNIT).to(like.dtype)
    return shares_B.reshape(-1, *[1] * (like.dim() - 1))
