"""Build the optimiser and its learning rate. Steps are numbered from 0."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from alignment.catalogues.optimisers import Adafactor, AdamW, AdamW8bit, OptimiserParams
from alignment.training.adafactor import AdafactorOptimiser
from alignment.training.adamw8bit import build_adamw8bit


def learning_rate(step: int, params: OptimiserParams, total_steps: int) -> float:
    """Linear warm-up from above 0 at step 0, then constant, or a half cosine that would reach 0 after the last step."""
    if step < params.warmup_steps:
        return params.learning_rate * (step + 1) / params.warmup_steps
    if params.schedule == "constant":
        return params.learning_rate
    done = (step - params.warmup_steps) / max(1, total_steps - params.warmup_steps)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build_optimiser(
    weights: Iterable[nn.Parameter], params: AdamW | Adafactor | AdamW8bit, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Build the optimiser that a recipe names; weight decay is decoupled and applies to every trained weight.

    `fused` runs AdamW's update of all weights in one kernel, whose rounding differs. Adafactor is our version of
    transformers': torch's own scales every step by the size of the weights, with no option to disable it.
    """
    if isinstance(params, Adafactor):
        return AdafactorOptimiser(weights, params)
    if isinstance(params, AdamW8bit):
        return build_adamw8bit(weights, params)
    return torch.optim.AdamW(
        weights,
        lr=params.learning_rate,
        betas=params.betas,
        eps=params.epsilon,
        weight_decay=params.weight_decay,
        fused=fused or None,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of the next update."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)  # torchao reads the rate from this tensor
        else:
            group["lr"] = value
