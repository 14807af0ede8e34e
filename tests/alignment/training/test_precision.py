"""Precision of passes; a loss scale that changes nothing but the range."""

import pytest
import torch
from torch import nn

from alignment.training.precision import GROW_AFTER, LossScale, autocast, set_float32_products
from benchmarks.precision_noise import built, noise, sd15

CPU = torch.device("cpu")


def weight_with(gradient: float) -> nn.Parameter:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([gradient, 1.0])
    return weight


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_products_have_the_recipes_dtype(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):  # type: ignore[arg-type]
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_float32_means_float32_also_in_convolutions() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        set_float32_products("tf32")
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (True, True)
        set_float32_products("fp32")
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (False, False)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_only_fp16_scales(precision: str) -> None:
    scale, weight = LossScale(precision), weight_with(float("inf"))  # type: ignore[arg-type]
    assert scale.value == 1
    assert scale.settle([weight])
    assert weight.grad is not None
    assert weight.grad.tolist() == [float("inf"), 1.0]


def test_gradients_are_divided_by_the_scale() -> None:
    scale, weight = LossScale("fp16", 8.0), weight_with(4.0)
    assert scale.settle([weight, nn.Parameter(torch.zeros(1))])
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.5, 0.125]


def test_an_overflow_halves_the_scale_until_one() -> None:
    scale = LossScale("fp16", 4.0, clean=7)
    for left in (2.0, 1.0):
        assert not scale.settle([weight_with(float("nan"))])
        assert (scale.value, scale.clean) == (left, 0)
    assert scale.settle([weight_with(float("nan"))]), "the guard against divergence decides"


def test_the_scale_doubles_after_many_steps_without_overflow() -> None:
    scale = LossScale("fp16", 4.0, clean=GROW_AFTER - 1)
    assert scale.settle([weight_with(1.0)])
    assert (scale.value, scale.clean) == (8.0, 0)


def test_fp16_keeps_the_noise_in_the_margin_below_a_third_of_bf16s() -> None:
    """A narrow Stable Diffusion of random weights, moved by 1e-9 and 1e-6; a GPU's arithmetic, emulated.

    fp16 has three more bits, so the noise should be an eighth; estimates from twelve values are good to a quarter.
    """
    found = noise(built(sd15, tiny=True), ("bf16", "fp16"), pairs=6)
    assert 3 * found["fp16"] < found["bf16"]
