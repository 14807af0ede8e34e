"""The optimiser against the one whose numbers it repeats."""

import pytest
import torch
from torch import nn

from alignment.catalogues.optimisers import Adafactor
from alignment.training.adafactor import AdafactorOptimiser

SHAPES = ((), (7,), (5, 3), (6, 4, 3, 3), (2, 9), (11,))


def weights_of(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize("clip_threshold", [0.3, 1.0])
def test_every_step_is_that_of_transformers(weight_decay: float, clip_threshold: float) -> None:
    from transformers.optimization import Adafactor as TransformersAdafactor

    params = Adafactor(learning_rate=0.03, weight_decay=weight_decay, clip_threshold=clip_threshold)
    ours, theirs = weights_of(0), weights_of(0)
    optimiser = AdafactorOptimiser(ours, params)
    expected = TransformersAdafactor(
        theirs,
        lr=0.03,
        clip_threshold=clip_threshold,
        weight_decay=weight_decay,
        scale_parameter=False,
        relative_step=False,
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(own.shape, generator=generator) * 10.0 ** (number - 3)
            # A weight without a gradient in one step: its count of steps then differs from the others'.
            own.grad = other.grad = None if step == 1 and number in (1, 2) else gradient
        optimiser.step()
        expected.step()
        for own, other in zip(ours, theirs, strict=True):
            assert torch.equal(own, other)
    assert {name for state in optimiser.state.values() for name in state} == {
        "step",
        "exp_avg_sq",
        "exp_avg_sq_row",
        "exp_avg_sq_col",
    }


def test_gradients_are_left_as_they_were() -> None:
    weights = weights_of(0)
    optimiser = AdafactorOptimiser(weights, Adafactor(learning_rate=0.1))
    before = []
    for weight in weights:
        weight.grad = torch.full_like(weight, 2.0)
        before.append(weight.grad.clone())
    optimiser.step()
    assert all(torch.equal(weight.grad, old) for weight, old in zip(weights, before, strict=True))  # type: ignore[arg-type]
