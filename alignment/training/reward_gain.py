"""Reward of an online run against the base: fresh images of some prompts, by policy and reference, from the same noise.

The mean reward of an epoch's own images does not show it, because rewards differ more between prompts than a run gains.
How the policy orders images by likelihood does not show it either: on fresh images that can be worse than chance while
the reward rises. B counts images, S sampler steps, C H W a latent.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alignment.data.prompt_lines import PromptLines
from alignment.training.offline import Predict
from alignment.training.seeding import stream
from alignment.training.trajectories import trajectory_noise

GAIN_PROMPTS = 32
"""Most prompts of a measurement, one image each."""
MEASUREMENTS = 10

DrawRewards = Callable[[Predict, Sequence[str], Tensor], Tensor]
"""(denoiser, prompts, noise_BSCHW) -> rewards_B of the images that the denoiser draws, one of each prompt."""


def is_measured(done: int, steps: int) -> bool:
    """Return True after every tenth part of a run's steps and after the last one; before the first the gain is 0."""
    return done > 0 and (done % max(1, steps // MEASUREMENTS) == 0 or done == steps)


class RewardGain:
    """Mean reward of the policy's images minus that of the reference's, in units of the reward.

    Prompts and noise follow from the seed alone and are the same at every measurement; training never draws this noise.
    The images of a batch are the same however many processes share the batches, so that they get the same bits.
    """

    def __init__(
        self,
        prompts: PromptLines,
        draw: DrawRewards,
        *,
        seed: int,
        noise_shape: tuple[int, int, int, int],
        most_images: int,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """`noise_shape` is SCHW, `most_images` that of a batch, `process` the index and number of processes."""
        order = torch.randperm(len(prompts), generator=stream("gain", seed))[:GAIN_PROMPTS].tolist()
        self._prompts = [prompts[index] for index in order]
        self._draw = draw
        self._seed = seed
        self._noise_shape = noise_shape
        rank, world = process
        starts = range(0, len(self._prompts), most_images)[rank::world]
        self._batches = [range(start, min(start + most_images, len(self._prompts))) for start in starts]
        self._reference_rewards: list[Tensor] = []

    def part(self, policy: Predict, reference: Predict) -> float:
        """Return this process's part of the gain; the parts of all processes add up to it.

        The reference's images are drawn in the first call only, so `reference` must not change.
        """
        if not self._reference_rewards:
            self._reference_rewards = self._rewards(reference)
        gains = [ours - base for ours, base in zip(self._rewards(policy), self._reference_rewards, strict=True)]
        return sum(float(gain_B.sum()) for gain_B in gains) / len(self._prompts)

    def _rewards(self, predict: Predict) -> list[Tensor]:
        """Return rewards_B of each batch of this process, float64."""
        return [
            self._draw(predict, [self._prompts[number] for number in batch], self._noise(batch)).double()
            for batch in self._batches
        ]

    def _noise(self, batch: Sequence[int]) -> Tensor:
        num_steps, *shape = self._noise_shape
        channels, height, width = shape
        return torch.cat(
            [
                trajectory_noise(
                    self._seed, "gain", number, num_images=1, num_steps=num_steps, shape=(channels, height, width)
                )
                for number in batch
            ]
        )
