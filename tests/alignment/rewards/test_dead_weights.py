"""Weights that are damaged, and those that only look so."""

import pytest
import torch

from alignment.rewards.dead_weights import check_alive, named


def test_biases_of_zeros_and_matrices_with_some_are_alive() -> None:
    check_alive({"a.weight": torch.eye(3), "a.bias": torch.zeros(3), "scale": torch.tensor(0.0)}, "judge x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"The judge x is damaged: 1 weights have values that are not finite \(a\)"):
        check_alive({"a": torch.tensor([1.0, value]), "b": torch.ones(1)}, "judge x")


def test_a_matrix_of_zeros_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 weights have zeros only \(fc1\.weight\)\. Download or train"):
        check_alive({"fc1.weight": torch.zeros(2, 2), "fc1.bias": torch.zeros(2)}, "judge x")


def test_the_first_names_are_shown() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named(["a", "b", "c", "d"]) == "a, b, c, ..."
