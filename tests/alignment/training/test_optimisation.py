"""Learning rate by hand, and an optimiser that was told everything."""

import pytest
import torch
from torch import nn

from alignment.optimisers import AdamW
from alignment.training.optimisation import build_optimiser, learning_rate, set_learning_rate


def test_warm_up_then_constant() -> None:
    params = AdamW(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(step, params, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(0, AdamW(learning_rate=1.0), 10) == 1.0


def test_cosine_falls_from_the_warm_up_to_nearly_zero() -> None:
    params = AdamW(learning_rate=2.0, warmup_steps=2, schedule="cosine")
    rates = [learning_rate(step, params, 12) for step in range(12)]
    assert rates[1] == rates[2] == 2.0
    assert rates[7] == pytest.approx(1.0)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.06


def test_optimiser_takes_every_setting() -> None:
    params = AdamW(learning_rate=0.1, betas=(0.5, 0.6), epsilon=1e-3, weight_decay=0.2)
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = build_optimiser([weight], params)
    weight.grad = torch.tensor([2.0])
    set_learning_rate(optimiser, 0.05)
    optimiser.step()
    # First update: both bias corrections cancel, so the direction is gradient / (|gradient| + epsilon).
    assert weight.item() == pytest.approx(1.0 * (1 - 0.05 * 0.2) - 0.05 * 2.0 / (2.0 + 1e-3))
    assert optimiser.param_groups[0]["betas"] == (0.5, 0.6)
