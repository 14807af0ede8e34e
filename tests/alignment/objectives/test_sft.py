"""SFT: a value by hand, gradient directions, identity, symmetry."""

import pytest
import torch

from alignment.catalogues.objectives import SFT
from alignment.objectives.inputs import PairErrors
from alignment.objectives.sft import sft_loss


def errors(chosen: float, rejected: float, *, gradient: bool = False) -> PairErrors:
    return PairErrors(torch.tensor([chosen], requires_grad=gradient), torch.tensor([rejected], requires_grad=gradient))


def test_value_by_hand() -> None:
    output = sft_loss(errors(0.25, 0.75), SFT())
    assert output.loss_B.item() == 0.25
    assert output.margin_B.item() == 0.5


def test_descent_lowers_the_chosen_error_and_leaves_the_rejected_one() -> None:
    policy = errors(0.25, 0.75, gradient=True)
    sft_loss(policy, SFT()).loss_B.sum().backward()
    assert policy.chosen_B.grad is not None
    assert policy.chosen_B.grad.item() == 1.0
    assert policy.rejected_B.grad is None


def test_equal_errors_have_no_margin() -> None:
    assert sft_loss(errors(0.25, 0.25), SFT()).margin_B.item() == 0.0


def test_swapped_labels_negate_the_margin() -> None:
    margin = sft_loss(errors(0.25, 0.75), SFT()).margin_B.item()
    assert sft_loss(errors(0.75, 0.25), SFT()).margin_B.item() == pytest.approx(-margin)
    assert not sft_loss(errors(0.25, 0.75, gradient=True), SFT()).margin_B.requires_grad
