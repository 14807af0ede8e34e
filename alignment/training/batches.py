"""Select the pairs of a step, divide them among processes, and read them as tensors.

B counts pairs, C H W a latent. An optimiser step is numbered from 0 here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    known_reference: Mapping[str, Tensor] = field(default_factory=dict)
    """Errors of the reference that were computed before, `chosen_B` and `rejected_B`; empty if there are none."""

    def to(self, device: torch.device) -> "PairBatch":
        """Return the batch on a device; from pinned memory it is copied while the host goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PairBatch":
        """Return the batch in page-locked memory, from which a GPU copies by itself."""
        return self._each(torch.Tensor.pin_memory)

    def rows(self, first: int, last: int) -> "PairBatch":
        """Return some of its pairs."""
        return self._each(lambda tensor: tensor[first:last])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PairBatch":
        return PairBatch(
            chosen_BCHW=change(self.chosen_BCHW),
            rejected_BCHW=change(self.rejected_BCHW),
            noise_BCHW=change(self.noise_BCHW),
            timesteps_B=change(self.timesteps_B),
            chosen_captions={name: change(states) for name, states in self.chosen_captions.items()},
            rejected_captions={name: change(states) for name, states in self.rejected_captions.items()},
            weight_B=change(self.weight_B),
            known_reference={name: change(errors) for name, errors in self.known_reference.items()},
        )


KnownReference = Callable[[Sequence[Visit]], Mapping[str, Tensor]]
"""Visits -> `PairBatch.known_reference` of the pairs as they are labelled."""


def nothing_known(visits: Sequence[Visit]) -> Mapping[str, Tensor]:
    """Return no errors: the step computes them."""
    return {}


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


def assemble(
    visits: Sequence[Visit],
    features: CachedFeatures,
    recipe: Recipe,
    schedule: ForwardProcess,
    *,
    known: KnownReference = nothing_known,
) -> PairBatch:
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
        known_reference=_swapped(known(visits)) if recipe.flip_labels else known(visits),
    )


def _swapped(known: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Swap the errors of the two sides, which are those of the same two images under the same captions."""
    return {"chosen_B": known["rejected_B"], "rejected_B": known["chosen_B"]} if known else known


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
