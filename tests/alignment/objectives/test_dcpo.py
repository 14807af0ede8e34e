"""DCPO: a value by hand, gradient directions, identity, symmetry; and the captions it requires."""

import math

import pytest
import torch

from alignment.catalogues.objectives import DCPO, OBJECTIVES, DiffusionDPO, check_captions
from alignment.objectives.dcpo import dcpo_loss
from alignment.objectives.inputs import PairErrors
from alignment.training.offline import _pair_errors

PARAMS = DCPO()


def errors(chosen: float, rejected: float, *, gradient: bool = False) -> PairErrors:
    return PairErrors(
        torch.tensor([chosen], dtype=torch.float64, requires_grad=gradient),
        torch.tensor([rejected], dtype=torch.float64, requires_grad=gradient),
    )


def test_value_by_hand() -> None:
    # Gains 0.001 and -0.0005; logit 0.5 * 500 * 0.0015 = 0.375.
    output = dcpo_loss(errors(0.100, 0.1195), errors(0.101, 0.119), PARAMS)
    assert output.margin_B.item() == pytest.approx(0.375)
    assert output.loss_B.item() == pytest.approx(math.log(1 + math.exp(-0.375)))


def test_descent_lowers_the_chosen_and_raises_the_rejected_error() -> None:
    policy = errors(0.1, 0.1, gradient=True)
    dcpo_loss(policy, errors(0.1, 0.1), PARAMS).loss_B.sum().backward()
    assert policy.chosen_B.grad is not None
    assert policy.rejected_B.grad is not None
    assert policy.chosen_B.grad.item() == pytest.approx(0.5 * 500 * 0.5)
    assert policy.rejected_B.grad.item() == pytest.approx(-0.5 * 500 * 0.5)


def test_equal_policy_and_reference_give_ln_2() -> None:
    output = dcpo_loss(errors(0.3, 0.1), errors(0.3, 0.1), PARAMS)
    assert output.loss_B.item() == pytest.approx(math.log(2))
    assert output.margin_B.item() == 0.0


def test_swapped_labels_negate_the_margin() -> None:
    margin = dcpo_loss(errors(0.100, 0.1195), errors(0.101, 0.119), PARAMS).margin_B
    swapped = dcpo_loss(errors(0.1195, 0.100), errors(0.119, 0.101), PARAMS).margin_B
    assert swapped.item() == pytest.approx(-margin.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predictions_in_half_precision_give_a_float32_loss(dtype: torch.dtype) -> None:
    policy, reference, target = torch.randn(3, 6, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    low = dcpo_loss(_pair_errors(policy, target), _pair_errors(reference, target), PARAMS)
    exact = dcpo_loss(_pair_errors(policy.float(), target), _pair_errors(reference.float(), target), PARAMS)
    assert low.loss_B.dtype == torch.float32
    assert torch.equal(low.loss_B, exact.loss_B)


def test_only_dcpo_needs_captions_and_data_without_them_is_refused() -> None:
    assert {params.__name__ for params in OBJECTIVES if params.needs_captions} == {"DCPO"}
    with pytest.raises(
        ValueError, match=r"Objective 'dcpo' .* snapshot s has no such captions.*caption_0 and caption_1"
    ):
        check_captions(PARAMS, 0, "snapshot s")
    check_captions(PARAMS, 1, "snapshot s")
    check_captions(PARAMS, None, "a snapshot from before captions were counted")
    check_captions(DiffusionDPO(), 0, "snapshot s")
