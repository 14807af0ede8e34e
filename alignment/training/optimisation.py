"""Build the optimiser and its learning rate. Steps are numbered from 0."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from alignment.catalogues.optimisers import Adafactor, AdamW, OptimiserParams


def learning_rate(step: int, params: OptimiserParams, total_steps: int) -> float:
    """Linear warm-up from above 0 at step 0, then constant, or a half cosine that would reach 0 after the last step."""
    if step < params.warmup_steps:
        return params.learning_rate * (step + 1) / params.warmup_steps
    if params.schedule == "constant":
        return params.learning_rate
    done = (step - params.warmup_steps) / max(1, total_steps - params.warmup_steps)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build_optimiser(weights: Iterable[nn.Parameter], params: AdamW | Adafactor) -> torch.optim.Optimizer:
    """Build the optimiser that a recipe names; weight decay is decoupled and applies to every trained weight.

    Adafactor is transformers': torch's own scales every step by the size of the weights, with no option to disable
    it.
    """
    if isinstance(params, Adafactor):
        from transformers.optimization import Adafactor as TransformersAdafactor  # loads peft, which AdamW does not
        # need

        unused_epsilon = 1e-3  # of scale_parameter
        adafactor: torch.optim.Optimizer = TransformersAdafactor(
            weights,
            lr=params.learning_rate,
            eps=(params.epsilon, unused_epsilon),
            clip_threshold=params.clip_threshold,
            decay_rate=params.decay_rate,
            weight_decay=params.weight_decay,
            scale_parameter=False,
            relative_step=False,
            warmup_init=False,
        )
        return adafactor
    return torch.optim.AdamW(
        weights,
        lr=params.learning_rate,
        betas=params.betas,
        eps=params.epsilon,
        weight_decay=params.weight_decay,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of the next update."""
    for group in optimiser.param_groups:
        group["lr"] = value
