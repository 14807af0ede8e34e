"""Select the pairs of a step, divide them among processes, and read them as tensors.

B counts pairs, C H W a latent. An optimiser step is numbered from 0 here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import ForwardProcess
from alignment.contracts.training import Recipe
from alignment.data.features import CachedFeatures
from alignment.training.seeding import epoch_order, pair_randomness

EMPTY_CAPTION = 0


@dataclass(frozen=True)
class Visit:
    """One pair in one epoch. `weight` is 0 for a filler that keeps a process without pairs in step."""

    pair: int
    epoch: int
    weight: float = 1.0


@dataclass(frozen=True)
class PairBatch:
    """A micro-batch of pairs for the offline step; latents are drawn from their moments, not yet noised.

    `chosen_captions` and `rejected_captions` are the denoiser's only conditioning: text states, and facts of the image
    where the backbone uses some.
    """

    chosen_BCHW: Tensor
    rejected_BCHW: Tensor
    noise_BCHW: Tensor
    timesteps_B: Tensor
    chosen_captions: Conditioning
    rejected_captions: Conditioning
    weight_B: Tensor

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        return PairBatch(
            chosen_BCHW=self.chosen_BCHW.to(device),
            rejected_BCHW=self.rejected_BCHW.to(device),
            noise_BCHW=self.noise_BCHW.to(device),
            timesteps_B=self.timesteps_B.to(device),
            chosen_captions={name: states.to(device) for name, states in self.chosen_captions.items()},
            rejected_captions={name: states.to(device) for name, states in self.rejected_captions.items()},
            weight_B=self.weight_B.to(device),
        )


def step_visits(step: int, *, global_batch: int, num_pairs: int, seed: int) -> list[Visit]:
    """Return the global batch of a step: the next `global_batch` pairs of the endless stream of shuffled epochs."""
    visits = []
    for position in range(step * global_batch, (step + 1) * global_batch):
        epoch, offset = divmod(position, num_pairs)
        visits.append(Visit(epoch_order(seed, epoch, num_pairs)[offset], epoch))
    return visits


def micro_batches(
    visits: Sequence[Visit], bucket: Callable[[int], int], *, rank: int, num_processes: int, micro_batch: int
) -> list[Sequence[Visit]]:
    """Return this process's share of a global batch in pieces of at most `micro_batch` pairs of one bucket.

    `bucket` maps a pair to its bucket. The batch is ordered by bucket (in the given order within a bucket) and cut into
    contiguous shares that differ by at most one pair; the remainder of a bucket in a share becomes a smaller piece.
    Each pair of the batch is in one piece of one process and has the same weight as every other, since losses are
    divided by the global batch. A process without a share gets one filler of weight 0, because every process must
    synchronise.
    """
    ordered = sorted(visits, key=lambda visit: bucket(visit.pair))
    first = rank * len(ordered) // num_processes
    last = (rank + 1) * len(ordered) // num_processes
    share = ordered[first:last] or [Visit(visits[0].pair, visits[0].epoch, weight=0.0)]
    pieces: list[Sequence[Visit]] = []
    for _, group in groupby(share, key=lambda visit: bucket(visit.pair)):
        together = list(group)
        pieces += [together[start : start + micro_batch] for start in range(0, len(together), micro_batch)]
    return pieces


def assemble(visits: Sequence[Visit], features: CachedFeatures, recipe: Recipe, schedule: ForwardProcess) -> PairBatch:
    """Read the visited pairs, all of one bucket, and draw their randomness; `flip_labels` swaps the two sides."""
    rows = [_Row.draw(visit, features, recipe, schedule) for visit in visits]
    return PairBatch(
        chosen_BCHW=torch.stack([row.chosen_CHW for row in rows]),
        rejected_BCHW=torch.stack([row.rejected_CHW for row in rows]),
        noise_BCHW=torch.stack([row.noise_CHW for row in rows]),
        timesteps_B=torch.tensor([row.timestep for row in rows]),
        chosen_captions=features.conditioning([row.caption_chosen for row in rows])
        | _stacked([row.image_chosen for row in rows]),
        rejected_captions=features.conditioning([row.caption_rejected for row in rows])
        | _stacked([row.image_rejected for row in rows]),
        weight_B=torch.tensor([visit.weight for visit in visits]),
    )


def _stacked(rows: Sequence[Conditioning]) -> Conditioning:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True)
class _Row:
    chosen_CHW: Tensor
    rejected_CHW: Tensor
    noise_CHW: Tensor
    timestep: float
    caption_chosen: int
    caption_rejected: int
    image_chosen: Conditioning
    image_rejected: Conditioning

    @classmethod
    def draw(cls, visit: Visit, features: CachedFeatures, recipe: Recipe, schedule: ForwardProcess) -> "_Row":
        pair = features.pair(visit.pair)
        channels, height, width = pair.chosen_mean_CHW.shape
        chance = pair_randomness(
            recipe.seed,
            visit.epoch,
            visit.pair,
            latent_shape=(channels, height, width),
            draw_timestep=schedule.for_latent(height, width).draw_timestep,
            caption_dropout=recipe.caption_dropout,
        )
        chosen_CHW = pair.chosen_mean_CHW + pair.chosen_std_CHW * chance.latent_noise_CHW
        rejected_CHW = pair.rejected_mean_CHW + pair.rejected_std_CHW * chance.latent_noise_CHW
        own = (pair.caption_chosen, pair.caption_rejected)
        captions = own if recipe.objective.needs_captions else pair.prompts
        if chance.caption_dropped:
            captions = (EMPTY_CAPTION, EMPTY_CAPTION)
        images = (pair.chosen_image, pair.rejected_image)
        if recipe.flip_labels:
            chosen_CHW, rejected_CHW, captions, images = rejected_CHW, chosen_CHW, captions[::-1], images[::-1]
        return cls(chosen_CHW, rejected_CHW, chance.noise_CHW, chance.timestep, *captions, *images)
