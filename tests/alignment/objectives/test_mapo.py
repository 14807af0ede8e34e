"""MaPO in both parameterisations: values by hand, gradient directions, identity, symmetry, extreme errors."""

import math
from collections.abc import Callable

import pytest
import torch

from alignment.catalogues.objectives import MaPO, MaPOPaper
from alignment.objectives.inputs import ObjectiveOutput, PairErrors
from alignment.objectives.mapo import _phi, mapo_loss, mapo_paper_loss
from alignment.training.offline import _pair_errors

Loss = Callable[[PairErrors], ObjectiveOutput]
CODE: Loss = lambda policy: mapo_loss(policy, MaPO())  # noqa: E731
PAPER: Loss = lambda policy: mapo_paper_loss(policy, MaPOPaper())  # noqa: E731
BOTH = pytest.mark.parametrize("loss", [CODE, PAPER], ids=["code", "paper"])


def errors(chosen: list[float], rejected: list[float], *, gradient: bool = False) -> PairErrors:
    return PairErrors(
        torch.tensor(chosen, requires_grad=gradient),
        torch.tensor(rejected, requires_grad=gradient),
    )


def gradients(loss: Loss, chosen: list[float], rejected: list[float]) -> tuple[list[float], list[float]]:
    policy = errors(chosen, rejected, gradient=True)
    loss(policy).loss_B.sum().backward()
    assert policy.chosen_B.grad is not None
    assert policy.rejected_B.grad is not None
    return policy.chosen_B.grad.tolist(), policy.rejected_B.grad.tolist()


def test_phi_by_hand() -> None:
    values = _phi(torch.tensor([0.0, math.log(2), 1.0, math.log(3)], dtype=torch.float64))
    assert values.tolist() == pytest.approx([1.0, math.log(2), 1 / (math.e - 1), math.log(3) / 2], rel=1e-15)


def test_phi_and_its_derivative_are_continuous_where_the_formulas_change() -> None:
    x = torch.tensor([0.0, 1e-300, 1e-16, 1e-8, 0.0099999999, 0.0100000001, 1.0], dtype=torch.float64)
    x.requires_grad_(True)
    value = _phi(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.tolist() == pytest.approx([1, 1, 1, 1 - 5e-9, 0.99500833, 0.99500833, 0.58197671], rel=1e-8)
    assert slope.tolist()[:4] == pytest.approx([-0.5, -0.5, -0.5, -0.5 + 1e-8 / 6], rel=1e-12)
    assert (value[4] - value[5]).item() == pytest.approx(0.49833333 * 2e-10, rel=1e-4)
    assert slope[4].item() == pytest.approx(slope[5].item(), rel=1e-9)
    exact = (math.e - 1 - math.e) / (math.e - 1) ** 2
    assert slope[6].item() == pytest.approx(exact, rel=1e-14)


def test_value_by_hand() -> None:
    # s m is ln 2 and ln 3, so phi is ln 2 and ln 3 / 2.
    policy = errors([2 * math.log(2)], [2 * math.log(3)])
    output = mapo_loss(policy, MaPO(beta=0.1, snr_value=0.5, num_train_timesteps=10))
    margin = 10 * (math.log(2) - math.log(3) / 2)
    assert output.margin_B.item() == pytest.approx(margin, rel=1e-6)
    assert output.loss_B.item() == pytest.approx(2 * math.log(2) + 0.1 * math.log(1 + math.exp(-margin)), rel=1e-6)


def test_value_of_the_paper_by_hand() -> None:
    output = mapo_paper_loss(errors([math.log(2)], [math.log(3)]), MaPOPaper(beta=3.0))
    margin = 3 * (math.log(2) - math.log(3) / 2)
    assert output.margin_B.item() == pytest.approx(margin, rel=1e-6)
    assert output.loss_B.item() == pytest.approx(math.log(2) + math.log(1 + math.exp(-margin)) / 3, rel=1e-6)


def test_the_two_parameterisations_are_not_the_same_number() -> None:
    policy = errors([0.1], [0.2])
    assert CODE(policy).loss_B.item() != pytest.approx(PAPER(policy).loss_B.item(), rel=0.01)


@BOTH
def test_descent_lowers_the_chosen_and_raises_the_rejected_error(loss: Loss) -> None:
    chosen, rejected = gradients(loss, [0.2], [0.2])
    assert chosen[0] > 1.0, "both the error term and the comparison contribute"
    assert rejected[0] < 0.0
    assert chosen[0] - 1.0 == pytest.approx(-rejected[0], rel=1e-5), (
        "equal errors have equal gradients, except for the error term"
    )


def test_gradient_by_hand_at_zero_margin() -> None:
    # beta T s |phi'(0)| sigmoid(0) = 0.1 * 1000 * 0.5 * 0.5 * 0.5.
    chosen, rejected = gradients(CODE, [0.0], [0.0])
    assert chosen[0] == pytest.approx(1 + 12.5)
    assert rejected[0] == pytest.approx(-12.5)


@pytest.mark.parametrize("beta", [1.0, 8.0, 1024.0])
def test_the_papers_beta_does_not_remove_the_preference_at_equal_errors(beta: float) -> None:
    """(1 / beta) beta |phi'| sigmoid(0): 0.25 at no error, 0.20 at 0.6, where the power 1024 of phi would be 1e-129."""
    for error, share in ((0.0, 0.25), (0.6, 0.5 * _slope(0.6))):
        chosen, rejected = gradients(lambda policy: mapo_paper_loss(policy, MaPOPaper(beta=beta)), [error], [error])
        assert chosen[0] == pytest.approx(1 + share)
        assert rejected[0] == pytest.approx(-share)


def _slope(x: float) -> float:
    """-phi'(x), from the quotient rule."""
    return (1 + (x - 1) * math.exp(x)) / (math.exp(x) - 1) ** 2


def test_equal_errors_give_the_error_and_ln_2() -> None:
    code, paper = CODE(errors([0.3], [0.3])), PAPER(errors([0.3], [0.3]))
    assert code.margin_B.item() == paper.margin_B.item() == 0.0
    assert code.loss_B.item() == pytest.approx(0.3 + 0.1 * math.log(2))
    assert paper.loss_B.item() == pytest.approx(0.3 + math.log(2) / 8)


@BOTH
def test_swapped_labels_negate_the_margin(loss: Loss) -> None:
    margin = loss(errors([0.1], [0.4])).margin_B
    assert margin.item() > 0
    assert loss(errors([0.4], [0.1])).margin_B.item() == -margin.item()
    assert not loss(errors([0.1], [0.4], gradient=True)).margin_B.requires_grad


@BOTH
def test_zero_tiny_and_huge_errors_give_finite_values_and_gradients(loss: Loss) -> None:
    extremes = [0.0, 1e-38, 1e-12, 1e-8, 0.02, 1.0, 176.0, 726.0, 1e4, 1e30]
    chosen, rejected = zip(*((a, b) for a in extremes for b in extremes), strict=True)
    output = loss(errors(list(chosen), list(rejected)))
    assert bool(output.loss_B.isfinite().all())
    assert bool(output.margin_B.isfinite().all())
    for side in gradients(loss, list(chosen), list(rejected)):
        assert all(map(math.isfinite, side))


@BOTH
def test_zero_error_in_the_pixels_has_a_finite_gradient(loss: Loss) -> None:
    target = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    prediction = target.clone().requires_grad_(True)
    loss(_pair_errors(prediction, target)).loss_B.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max().item() == 0.0


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predictions_in_half_precision_give_a_float32_loss(loss: Loss, dtype: torch.dtype) -> None:
    prediction, target = torch.randn(2, 6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    low = loss(_pair_errors(prediction.to(dtype), target))
    exact = loss(_pair_errors(prediction.to(dtype).float(), target))
    assert low.loss_B.dtype == low.margin_B.dtype == torch.float32
    assert torch.equal(low.loss_B, exact.loss_B)


def test_a_power_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        MaPOPaper(beta=0.5)
