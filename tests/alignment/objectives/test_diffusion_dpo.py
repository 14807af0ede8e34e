"""Diffusion-DPO: a value by hand, gradient directions, identity, symmetry."""

import math

import pytest
import torch

from alignment.catalogues.objectives import OBJECTIVES, DiffusionDPO
from alignment.objectives.diffusion_dpo import diffusion_dpo_loss
from alignment.objectives.inputs import PairErrors
from alignment.training.offline import _pair_errors, takes_reference

PARAMS = DiffusionDPO(beta=2000.0)


def errors(chosen: float, rejected: float, *, gradient: bool = False) -> PairErrors:
    return PairErrors(
        torch.tensor([chosen], dtype=torch.float64, requires_grad=gradient),
        torch.tensor([rejected], dtype=torch.float64, requires_grad=gradient),
    )


def test_value_by_hand() -> None:
    # Gains 0.101 - 0.100 and 0.119 - 0.1195: 0.001 and -0.0005. Logit 0.5 * 2000 * 0.0015 = 1.5.
    output = diffusion_dpo_loss(errors(0.100, 0.1195), errors(0.101, 0.119), PARAMS)
    assert output.margin_B.item() == pytest.approx(1.5)
    assert output.loss_B.item() == pytest.approx(math.log(1 + math.exp(-1.5)))


def test_hinge_by_hand() -> None:
    hinge = DiffusionDPO(beta=2000.0, link="hinge")
    assert diffusion_dpo_loss(errors(0.1, 0.1), errors(0.1003, 0.1), hinge).loss_B.item() == pytest.approx(0.7)
    assert diffusion_dpo_loss(errors(0.1, 0.1), errors(0.11, 0.1), hinge).loss_B.item() == 0.0


def test_ipo_by_hand() -> None:
    ipo = DiffusionDPO(beta=2000.0, link="ipo")
    assert diffusion_dpo_loss(errors(0.1, 0.1), errors(0.1015, 0.1), ipo).loss_B.item() == pytest.approx(1.0)
    assert diffusion_dpo_loss(errors(0.1, 0.1), errors(0.1, 0.1), ipo).loss_B.item() == pytest.approx(0.25)
    assert diffusion_dpo_loss(errors(0.1, 0.1), errors(0.1005, 0.1), ipo).loss_B.item() == pytest.approx(0.0, abs=1e-20)


def test_ipo_is_the_published_loss_up_to_a_factor() -> None:
    """(h - 1 / (2 tau))^2 with the logit tau h: any tau gives the same loss times tau^2."""
    gain, scale, tau = 0.0003, 4000.0, 0.25
    published = (scale * gain - 1 / (2 * tau)) ** 2
    ours = diffusion_dpo_loss(errors(0.1, 0.1), errors(0.1 + gain, 0.1), DiffusionDPO(beta=2 * tau * scale, link="ipo"))
    assert ours.loss_B.item() == pytest.approx(tau**2 * published)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("link", ["sigmoid", "hinge", "ipo"])
def test_predictions_in_half_precision_give_a_float32_loss(dtype: torch.dtype, link: str) -> None:
    policy, reference, target = torch.randn(3, 6, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    params = DiffusionDPO.model_validate({"beta": 2000.0, "link": link})
    low = diffusion_dpo_loss(_pair_errors(policy, target), _pair_errors(reference, target), params)
    exact = diffusion_dpo_loss(
        _pair_errors(policy.float(), target), _pair_errors(reference.float(), target.float()), params
    )
    assert low.loss_B.dtype == torch.float32
    assert torch.equal(low.loss_B, exact.loss_B)


@pytest.mark.parametrize("link", ["sigmoid", "hinge", "ipo"])
def test_descent_lowers_the_chosen_and_raises_the_rejected_error(link: str) -> None:
    policy = errors(0.1, 0.1, gradient=True)
    params = DiffusionDPO.model_validate({"beta": 2000.0, "link": link})
    diffusion_dpo_loss(policy, errors(0.1, 0.1), params).loss_B.sum().backward()
    expected = 0.5 * 2000.0 * (0.5 if link == "sigmoid" else 1.0)
    assert policy.chosen_B.grad is not None
    assert policy.rejected_B.grad is not None
    assert policy.chosen_B.grad.item() == pytest.approx(expected)
    assert policy.rejected_B.grad.item() == pytest.approx(-expected)


def test_equal_policy_and_reference_give_ln_2() -> None:
    output = diffusion_dpo_loss(errors(0.3, 0.1), errors(0.3, 0.1), PARAMS)
    assert output.loss_B.item() == pytest.approx(math.log(2))
    assert output.margin_B.item() == 0.0


def test_swapped_labels_negate_the_margin() -> None:
    margin = diffusion_dpo_loss(errors(0.100, 0.1195), errors(0.101, 0.119), PARAMS).margin_B
    swapped = diffusion_dpo_loss(errors(0.1195, 0.100), errors(0.119, 0.101), PARAMS).margin_B
    assert swapped.item() == pytest.approx(-margin.item())


def test_margin_carries_no_gradient_and_the_reference_gets_none() -> None:
    policy, reference = errors(0.1, 0.2, gradient=True), errors(0.1, 0.2)
    assert not diffusion_dpo_loss(policy, reference, PARAMS).margin_B.requires_grad


def test_catalogue_states_which_objectives_need_a_reference() -> None:
    from alignment.catalogues.lookup import resolve

    stated = {params.__name__: params.needs_reference for params in OBJECTIVES}
    taken = {params.__name__: takes_reference(resolve(params.implementation)) for params in OBJECTIVES}
    assert stated == taken
    assert len(stated) >= 2
