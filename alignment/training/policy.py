"""The policy of a run: the base with the recipe's trainable part, loaded, and gathered from shards."""

from typing import Any, cast

import torch
from torch import nn

from alignment.backbones.interface import Backbone
from alignment.contracts.jobs import Placement
from alignment.contracts.training import FullFineTune, Recipe
from alignment.training.checkpoint import trainable
from alignment.training.compilation import compile_blocks
from alignment.training.precision import run_everywhere_in
from alignment.training.seeding import stream_seed
from alignment.training.sharding import whole


def load_policy(
    backbone: Backbone, recipe: Recipe, placement: Placement, *, device: torch.device | None, runs_on: torch.device
) -> nn.Module:
    """Load the base with the recipe's trainable part at its start; what is trained is float32.

    `device` is the device of the weights at first, by default the backbone's; passes run on `runs_on`.
    """
    storage = "fp32" if isinstance(recipe.tuning, FullFineTune) else recipe.frozen_weights
    policy = backbone.load_denoiser(device, storage)
    backbone.attach(policy, recipe.tuning, stream_seed("adapter", recipe.seed))
    if storage != "fp32":
        run_everywhere_in(recipe.precision, policy, runs_on)
    apply_placement(policy, placement)
    return policy


def apply_placement(denoiser: nn.Module, placement: Placement) -> None:
    """Store the weights in the placement's order and compile the blocks where the placement asks for it, in place."""
    if placement.channels_last:
        cast(Any, denoiser).to(memory_format=torch.channels_last)  # torch does not annotate this call
    if placement.compile_blocks:
        compile_blocks(denoiser)


def gather_into(policy: nn.Module, sharded: nn.Module, *, keep: bool) -> nn.Module:
    """Return `policy` with the trained values of the sharded policy if `keep`. All processes call it together."""
    with torch.no_grad():
        for (_, target), (_, weight) in zip(trainable(policy), trainable(sharded), strict=True):
            values = whole(weight)
            if keep:
                target.copy_(values)
    return policy
