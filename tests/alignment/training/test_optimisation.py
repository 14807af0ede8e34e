"""Learning rate by hand, and an optimiser that receives every setting."""

import pytest
import torch
from torch import nn

from alignment.catalogues.optimisers import Adafactor, AdamW
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


def test_the_optimiser_receives_every_setting() -> None:
    params = AdamW(learning_rate=0.1, betas=(0.5, 0.6), epsilon=1e-3, weight_decay=0.2)
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = build_optimiser([weight], params)
    weight.grad = torch.tensor([2.0])
    set_learning_rate(optimiser, 0.05)
    optimiser.step()
    # First update: both bias corrections cancel, so the direction is gradient / (|gradient| + epsilon).
    assert weight.item() == pytest.approx(1.0 * (1 - 0.05 * 0.2) - 0.05 * 2.0 / (2.0 + 1e-3))
    assert optimiser.param_groups[0]["betas"] == (0.5, 0.6)


def test_adafactor_by_hand() -> None:
    """A matrix and a vector, two steps: factored and full second moments, clipped, decayed, not scaled by the weight.

    Second moments begin as the squared gradient; in step 2 they keep 1 - 2 ** -0.8 = 0.4257 of that.
    """
    matrix = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    vector = torch.nn.Parameter(torch.tensor([10.0, 10.0]))
    params = Adafactor(learning_rate=0.1, weight_decay=0.5)
    optimiser = build_optimiser([matrix, vector], params)
    matrix.grad, vector.grad = torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.tensor([3.0, -4.0])
    optimiser.step()
    # The squares have rank one, so the factors reproduce them: every update equals the rate, whatever the gradient.
    torch.testing.assert_close(matrix.data, torch.tensor([[0.95 - 0.1, 1.9 - 0.1], [2.85 - 0.1, 3.8 - 0.1]]))
    torch.testing.assert_close(vector.data, torch.tensor([9.5 - 0.1, 9.5 + 0.1]))
    before = vector.data.clone()
    vector.grad, matrix.grad = torch.tensor([3.0, 0.0]), None
    optimiser.step()
    # Moments 9 and 0.4257 * 16; the update (1, 0) has a mean square of one half, below the threshold of 1.
    torch.testing.assert_close(vector.data, 0.95 * before - 0.1 * torch.tensor([1.0, 0.0]))
    assert set(optimiser.state[matrix]) == {"step", "exp_avg_sq_row", "exp_avg_sq_col"}


def test_adafactor_clips_the_update_not_the_gradient() -> None:
    """After a gradient of 1, one of 10: the moment is 0.4257 + 0.5743 * 100, the update 1.3149, cut to 1.25."""
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    optimiser = build_optimiser([weight], Adafactor(learning_rate=1.0, weight_decay=0.0, clip_threshold=1.25))
    for gradient in (1.0, 10.0):
        weight.grad = torch.tensor([gradient])
        optimiser.step()
    assert weight.item() == pytest.approx(-1.0 - 1.25)
