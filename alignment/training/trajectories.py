"""Denoising trajectories: drawn with every step's log-probability, and evaluated again by other weights.

B counts images of one prompt, S sampler steps, T = S - 1 those of them that have a density, C H W a latent.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.backbones.ancestral import Gaussian, next_latent, predicted_image, sampling_timesteps
from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import ForwardProcess, NoiseSchedule
from alignment.catalogues.objectives import PRDP
from alignment.training.offline import Predict
from alignment.training.seeding import stream


@dataclass(frozen=True)
class Trajectories:
    """Denoising trajectories of one prompt's images, on the CPU: a denoiser processes one step of them at a time."""

    latents_BSCHW: Tensor
    """The latent before each step, float32."""
    conditioning: Conditioning
    """Conditioning of the prompt, one row."""
    old_log_probs_BT: Tensor
    """Log-probabilities under the weights that drew the images, float64, each a mean over C, H, W."""
    reference_log_probs_BT: Tensor

    @property
    def num_steps(self) -> int:
        """Number of steps that have a density, T."""
        return self.old_log_probs_BT.shape[1]


def trajectory_noise(
    seed: int, epoch: int | str, slot: int, *, num_images: int, num_steps: int, shape: tuple[int, int, int]
) -> Tensor:
    """Standard normal BSCHW: each image's first latent, then the noise that every step but the last adds.

    A function of seed, epoch, the prompt's position in the epoch and the image's number only. Images that do not belong
    to an epoch have a name in its place.
    """
    generators = [stream("trajectory", seed, epoch, slot, image) for image in range(num_images)]
    return torch.stack([torch.randn(num_steps, *shape, generator=generator) for generator in generators])


class AncestralSampler:
    """Draws and evaluates trajectories under classifier-free guidance, at most `most_images` at once.

    An image's neighbours in a batch are the same whenever it is drawn or evaluated, so that the same weights give the
    same bits.
    """

    def __init__(
        self,
        schedule: ForwardProcess,
        params: PRDP,
        *,
        empty: Conditioning,
        most_images: int,
        device: torch.device,
    ) -> None:
        """`empty` is the empty prompt's conditioning, one row. ValueError for a schedule without ancestral steps."""
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(
                f"Objective {params.name!r} needs the Gaussian steps of a variance-preserving schedule, which this"
                " backbone does not have. Use a base that predicts noise or v, or an offline objective."
            )
        self.schedule = schedule
        self.timesteps = sampling_timesteps(schedule.num_timesteps, params.sampler_steps)
        self._guidance_scale = params.guidance_scale
        self._empty = empty
        self._most_images = most_images
        self._device = device

    @torch.no_grad()
    def draw(
        self, policy: Predict, reference: Predict, noise_BSCHW: Tensor, conditioning: Conditioning
    ) -> tuple[Trajectories, Tensor]:
        """Draw trajectories with the policy from this noise; also return their images' latents BCHW on the CPU."""
        parts = [
            self._draw(policy, reference, noise_BSCHW[images], conditioning) for images in self.pieces(noise_BSCHW)
        ]
        latents, old, under_reference, final = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Trajectories(latents, conditioning, old, under_reference), final

    @torch.no_grad()
    def latents(self, predict: Predict, noise_BSCHW: Tensor, conditioning: Conditioning) -> Tensor:
        """Draw images from this noise, all at once and without densities; return their latents BCHW on the CPU.

        `conditioning` has one row for all images, or one for each.
        """
        latent_BCHW = noise_BSCHW[:, 0].to(self._device)
        for step in range(len(self.timesteps) - 1):
            density = self._density(predict, latent_BCHW, step, conditioning)
            latent_BCHW = density.draw(noise_BSCHW[:, step + 1].to(self._device))
        return self._final(predict, latent_BCHW, conditioning)

    @torch.no_grad()
    def log_probs(self, predict: Predict, trajectories: Trajectories) -> Tensor:
        """Return log_probs_BT under other weights, float64 on the CPU."""
        rows = [
            torch.stack(
                [self.step_log_prob(predict, trajectories, images, t) for t in range(trajectories.num_steps)], dim=1
            )
            for images in self.pieces(trajectories.latents_BSCHW)
        ]
        return torch.cat(rows).cpu()

    def step_log_prob(self, predict: Predict, trajectories: Trajectories, images: slice, step: int) -> Tensor:
        """Log-probability of one step of some images, float64 on the device; carries a gradient if `predict` does."""
        latents_BSCHW = trajectories.latents_BSCHW[images]
        before_BCHW, after_BCHW = (latents_BSCHW[:, number].to(self._device) for number in (step, step + 1))
        density = self._density(predict, before_BCHW, step, trajectories.conditioning)
        return density.log_prob(after_BCHW)

    def prediction(
        self, predict: Predict, trajectories: Trajectories, images: slice, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the guided prediction BCHW at one step of some images, float32, and the timesteps_B."""
        latents_BCHW = trajectories.latents_BSCHW[images, step].to(self._device)
        return self._answer(predict, latents_BCHW, step, trajectories.conditioning)

    def pieces(self, tensor_B: Tensor) -> Iterator[slice]:
        """Split the images of a prompt into pieces that fit."""
        return (slice(i, i + self._most_images) for i in range(0, len(tensor_B), self._most_images))

    def _draw(
        self, policy: Predict, reference: Predict, noise_BSCHW: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        latent_BCHW = noise_BSCHW[:, 0].to(self._device)
        latents, old, under_reference = [latent_BCHW.cpu()], [], []
        for step in range(len(self.timesteps) - 1):
            density = self._density(policy, latent_BCHW, step, conditioning)
            before_BCHW, latent_BCHW = latent_BCHW, density.draw(noise_BSCHW[:, step + 1].to(self._device))
            old.append(density.log_prob(latent_BCHW).cpu())
            other = self._density(reference, before_BCHW, step, conditioning)
            under_reference.append(other.log_prob(latent_BCHW).cpu())
            latents.append(latent_BCHW.cpu())
        return (
            torch.stack(latents, dim=1),
            torch.stack(old, dim=1),
            torch.stack(under_reference, dim=1),
            self._final(policy, latent_BCHW, conditioning),
        )

    def _final(self, predict: Predict, latent_BCHW: Tensor, conditioning: Conditioning) -> Tensor:
        """Apply the last step, which has no density."""
        answer_BCHW, timesteps_B = self._answer(predict, latent_BCHW, len(self.timesteps) - 1, conditioning)
        return predicted_image(self.schedule, answer_BCHW, latent_BCHW, timesteps_B).float().cpu()

    def _density(self, predict: Predict, latent_BCHW: Tensor, step: int, conditioning: Conditioning) -> Gaussian:
        answer_BCHW, timesteps_B = self._answer(predict, latent_BCHW, step, conditioning)
        next_B = torch.full_like(timesteps_B, self.timesteps[step][1])
        return next_latent(self.schedule, answer_BCHW, latent_BCHW, timesteps_B=timesteps_B, next_B=next_B)

    def _answer(
        self, predict: Predict, latent_BCHW: Tensor, step: int, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """Return the guided prediction, float32, and each image's timestep; both prompts share one denoiser pass."""
        timesteps_B = torch.full((len(latent_BCHW),), self.timesteps[step][0], device=self._device)
        prompts = self._rows(conditioning, len(latent_BCHW))
        if self._guidance_scale == 1:
            return predict(latent_BCHW, timesteps_B, prompts).float(), timesteps_B
        empty = self._rows(self._empty, len(latent_BCHW))
        both = {name: torch.cat([empty[name], states]) for name, states in prompts.items()}
        predictions = predict(torch.cat([latent_BCHW] * 2), torch.cat([timesteps_B] * 2), both)
        empty_BCHW, prompted_BCHW = predictions.float().chunk(2)
        return empty_BCHW + self._guidance_scale * (prompted_BCHW - empty_BCHW), timesteps_B

    def _rows(self, conditioning: Conditioning, count: int) -> Conditioning:
        return {name: states.to(self._device).expand(count, *states.shape[1:]) for name, states in conditioning.items()}
