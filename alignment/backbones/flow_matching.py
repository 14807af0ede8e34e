"""Flow matching (rectified flow): straight lines from images to noise, as SD3 and FLUX are trained.

B counts images, C H W are a latent's channels, height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TIMESTEPS_PER_UNIT = 1000.0
LATENT_PIXELS_PER_TOKEN = 4
"""SD3 and FLUX cut a latent into patches of 2 x 2."""


@dataclass(frozen=True)
class FlowMatchingSchedule:
    """x_t = (1 - s) x_0 + s noise, with s in (0, 1) the share of noise; the denoiser gets 1000 s as its timestep.

    Source: Esser et al. 2024, arXiv:2403.03206: the path of eq. 13, the logit-normal density
    of eq. 19, the shift of eq. 23. For preference pairs Diffusion-DPO has no official flow version; the public one
    (flow_grpo's train_sd3_dpo.py) regresses noise - x_0 with one noise and one s a pair, which is ours too.
    """

    density_mean: float = 0.0
    density_std: float = 1.0
    """Of the normal whose logistic function is s."""
    shift: float = 1.0
    """Moves s towards noise, s -> shift s / (1 + (shift - 1) s); the `shift` of the scheduler's configuration."""
    shift_of_tokens: Callable[[int], float] | None = None
    """The shift by the image's length in tokens, where it depends on that."""

    def __post_init__(self) -> None:
        if self.density_std <= 0 or self.shift <= 0:
            raise ValueError(
                f"Flow matching with density_std {self.density_std} and shift {self.shift}: both must be above 0."
                " Mend the scheduler's configuration."
            )

    def for_latent(self, height: int, width: int) -> "FlowMatchingSchedule":
        """The process with the shift of an image of that size."""
        if self.shift_of_tokens is None:
            return self
        return replace(self, shift=self.shift_of_tokens(height * width // LATENT_PIXELS_PER_TOKEN))

    def draw_timestep(self, generator: torch.Generator) -> float:
        """Logit-normal, shifted, times 1000; one number of the generator a draw."""
        normal = torch.randn((), generator=generator, dtype=torch.float64) * self.density_std + self.density_mean
        share = torch.sigmoid(normal)
        return float(TIMESTEPS_PER_UNIT * self.shift * share / (1 + (self.shift - 1) * share))

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Latents on the way to noise."""
        share_B111 = _shares(timesteps_B, latents_BCHW)
        return (1 - share_B111) * latents_BCHW + share_B111 * noise_BCHW

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """The velocity, noise - x_0: the same at every timestep."""
        del timesteps_B
        return noise_BCHW - latents_BCHW


def _shares(timesteps_B: Tensor, like: Tensor) -> Tensor:
    shares_B = (timesteps_B.to(like.device, torch.float32) / TIMESTEPS_PER_UNIT).to(like.dtype)
    return shares_B.reshape(-1, *[1] * (like.dim() - 1))
