"""Use of a card's arithmetic: operations that the model needs, over those that the card could do in that time."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from alignment.backbones.interface import Backbone
from alignment.contracts.training import FullFineTune, Recipe
from alignment.training.batches import PairBatch

DENSE_BF16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Operations per second of a card's matrix units in bf16 with float32 sums, without sparsity, from the makers' data
sheets. A name is found in the driver's name of the card; the first that is there counts."""


def peak_rate(device: torch.device) -> float | None:
    """Return the dense bf16 rate of a device in operations per second; None for one that is not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in DENSE_BF16.items() if part in name), None)


def flops_per_pair(backbone: Backbone, denoiser: nn.Module, recipe: Recipe, batch: PairBatch, *, passes: int) -> float:
    """Return the operations that a training step needs for one pair, counting a multiplication and an addition as two.

    `passes` counts forward passes without a gradient, such as the reference's. A backward pass costs as much as a
    forward pass for the gradients of the activations, and as much again for those of the weights, which frozen weights
    do not have. Operations that are repeated to save memory, and the adapters', do not count. The passes run on
    the `meta` device, which computes shapes only.
    """
    backward = 2 if isinstance(recipe.tuning, FullFineTune) else 1
    return (1 + backward + passes) * _forward_flops(backbone, denoiser, batch) / len(batch.timesteps_B)


def _forward_flops(backbone: Backbone, denoiser: nn.Module, batch: PairBatch) -> float:
    """Count one pass over both images of every pair, on an untrained copy of the denoiser's architecture."""
    from torch.utils.flop_counter import FlopCounterMode  # not loaded where the rate of the device is unknown

    with torch.device("meta"):
        shapes = cast(Any, type(denoiser)).from_config(cast(Any, denoiser).config)

    def both(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]).to("meta")

    conditioning = {name: both(states) for name, states in batch.chosen_captions.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone.predict(shapes, both(batch.chosen_BCHW), both(batch.timesteps_B), conditioning)
    return float(counter.get_total_flops())
