"""Heads built from their weights."""

from pathlib import Path

import pytest
import torch

from alignment.rewards.affine_head import AffineHead

HERE = Path("judge")


def test_layers_run_in_the_order_of_their_numbers() -> None:
    first, second = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[3.0, 5.0]])
    weights = {"layers.10.weight": second, "layers.2.weight": first, "layers.2.bias": torch.tensor([0.5, 0.0])}
    read = torch.tensor([[1.0, 1.0]])
    # First layer: (3.5, -1). Second: 3 * 3.5 - 5 = 5.5; with a ReLU between, 10.5.
    assert AffineHead.from_weights(weights, HERE)(read).item() == pytest.approx(5.5)
    assert AffineHead.from_weights(weights, HERE, "relu")(read).item() == pytest.approx(10.5)


def test_a_single_layer_has_no_number() -> None:
    head = AffineHead.from_weights({"weight": torch.tensor([[2.0, 0.0]]), "bias": torch.tensor([1.0])}, HERE)
    assert head.width == 2
    assert head(torch.tensor([[3.0, 9.0]])).tolist() == [[7.0]]


@pytest.mark.parametrize(
    "weights", [{}, {"0.weight": torch.zeros(3, 2), "1.weight": torch.zeros(1, 4)}, {"bias": torch.zeros(1)}]
)
def test_anything_else_is_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="not a chain of linear layers"):
        AffineHead.from_weights(weights, HERE)


def test_an_incomplete_head_is_refused() -> None:
    weights = {"0.weight": torch.ones(2, 2), "0.bias": torch.zeros(2), "2.weight": torch.ones(1, 2)}
    AffineHead.from_weights(weights, HERE)
    with pytest.raises(ValueError, match=r"head in judge lacks 2\.bias\."):
        AffineHead.from_weights(weights, HERE, biased=True)
    with pytest.raises(ValueError, match=r"holds 4\.bias, which no layer uses"):
        AffineHead.from_weights(weights | {"4.bias": torch.zeros(1)}, HERE)
