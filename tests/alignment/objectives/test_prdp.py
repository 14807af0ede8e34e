"""PRDP's mathematics: a value by hand, gradient directions, symmetry, identity, the clip, ties."""

import pytest
import torch
from torch import Tensor

from alignment.catalogues.objectives import PRDP
from alignment.objectives.prdp import PRDPOutput, ScoredTrajectories, prdp_loss


def params(beta: float = 2.0, clip_range: float = 0.5) -> PRDP:
    return PRDP(reward="taste", beta=beta, clip_range=clip_range, images_per_prompt=2)


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def loss_of(
    log_probs: Tensor, old: Tensor, rewards: list[float], settings: PRDP, reference: Tensor | None = None
) -> PRDPOutput:
    policy = ScoredTrajectories(log_probs, old, torch.tensor(rewards))
    return prdp_loss(policy, torch.zeros_like(log_probs) if reference is None else reference, settings)


def listing(log_probs: Tensor, old: Tensor, reference: Tensor, rewards: Tensor, settings: PRDP) -> Tensor:
    """The paper's listing, unchanged, for autograd."""
    ratio, ratio_old = log_probs - reference, old - reference
    clipped = torch.clamp(ratio - ratio_old, -settings.clip_range, settings.clip_range) + ratio_old
    squares = []
    for table_BT in (ratio, clipped):
        mean_B = table_BT.mean(dim=1)
        wanted_BB = (rewards[:, None] - rewards[None, :]) / settings.beta
        squares.append((mean_B[:, None] - mean_B[None, :] - wanted_BB).square())
    is_pair = rewards[:, None] > rewards[None, :]
    return torch.maximum(*squares)[is_pair].mean()


def random_case(
    seed: int, images: int = 5, steps: int = 7, moved: float = 0.02
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference, shift, move = torch.randn(3, images, steps, generator=generator, dtype=torch.float64)
    rewards = torch.randn(images, generator=generator, dtype=torch.float64)
    return reference + 0.1 * shift + moved * move, reference + 0.1 * shift, reference, rewards


def test_value_by_hand() -> None:
    # Log-ratios 0.3 and -0.1 (means of two steps), reward difference 1 over beta 2: residual 0.4 - 0.5 = -0.1.
    # Nothing is clipped: each step carries 2 * -0.1 / 2.
    now = table([0.2, 0.4], [-0.1, -0.1])
    output = loss_of(now, now, [1.5, 0.5], params())
    assert output.loss.item() == pytest.approx(0.01)
    assert output.coefficients_BT.flatten().tolist() == pytest.approx([-0.1, -0.1, 0.1, 0.1])
    assert output.residuals_BB[0, 1].item() == pytest.approx(-0.1)
    assert (output.num_pairs, output.clipped_share) == (1, 0.0)


def test_clip_by_hand() -> None:
    # The better image rose by 2 at one of two steps; the clip allows 0.5, so 1 becomes 0.25, below the target 0.5. The
    # plain residual is 0.5, the clipped one -0.25: the plain one is larger and counts, so the overshoot is corrected.
    now, old = table([2.0, 0.0], [0.0, 0.0]), torch.zeros(2, 2)
    assert loss_of(now, old, [1.0, 0.0], params()).loss.item() == pytest.approx(0.25)
    # With target 4 the clipped residual 0.25 - 4 is larger: the step outside the clip gets no gradient.
    output = loss_of(now, old, [8.0, 0.0], params())
    assert output.loss.item() == pytest.approx(3.75**2)
    assert output.coefficients_BT.flatten().tolist() == pytest.approx([0.0, -3.75, 3.75, 3.75])
    assert output.clipped_share == 0.25


def test_descent_raises_the_better_and_lowers_the_worse_image() -> None:
    same = torch.zeros(2, 4)
    output = loss_of(same, same, [0.3, 0.1], params(beta=0.1))
    assert bool((output.coefficients_BT[0] < 0).all()), "descent adds to the better image's log-probabilities"
    assert bool((output.coefficients_BT[1] > 0).all())


def test_policy_at_the_reference_gives_the_squared_reward_difference_and_flat_coefficients() -> None:
    same = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    output = loss_of(same, same, [0.0, 1.0, 3.0], params(beta=0.5), reference=same)
    assert output.loss.item() == pytest.approx((2**2 + 4**2 + 6**2) / 3)
    assert torch.allclose(output.coefficients_BT, output.coefficients_BT[:, :1].expand(3, 4))


def test_swapped_rewards_at_the_reference_negate_the_gradient_and_the_margin() -> None:
    now = table([0.2, 0.4], [-0.1, -0.1])
    there, back = (loss_of(now, now, rewards, params()) for rewards in ([1.0, 0.0], [0.0, 1.0]))
    assert there.margins_BB.sum().item() == pytest.approx(-back.margins_BB.sum().item())
    same = torch.zeros(2, 2)
    there, back = (loss_of(same, same, rewards, params()) for rewards in ([1.0, 0.0], [0.0, 1.0]))
    assert torch.equal(there.coefficients_BT, -back.coefficients_BT)
    assert there.loss == back.loss


@pytest.mark.parametrize("seed", range(4))
def test_loss_and_coefficients_are_those_of_the_listing(seed: int) -> None:
    now, old, reference, rewards = random_case(seed)
    settings = params(beta=3.0, clip_range=0.01)
    output = loss_of(now, old, rewards.tolist(), settings, reference)
    now = now.requires_grad_(True)
    expected = listing(now, old, reference, rewards.float().double(), settings)
    (gradient,) = torch.autograd.grad(expected, now)
    assert 0.3 < output.clipped_share < 0.9
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(output.coefficients_BT, gradient, rtol=1e-9, atol=1e-15)


def test_the_branch_is_found_despite_float32_rounding_at_the_papers_settings() -> None:
    """Reward differences over beta are 1e4; the clip cuts off 1e-6. float32 squares of the two branches are equal."""
    settings = params(beta=3e-5, clip_range=1e-6)
    now, old = table([3e-6, 0.0], [0.0, 0.0]).float(), torch.zeros(2, 2)
    chosen = loss_of(now, old, [0.3, 0.1], settings).coefficients_BT
    assert chosen[0, 0] == 0, "a step that rose beyond the clip towards its target gets no gradient"
    assert chosen[0, 1] < 0
    away = loss_of(-now, old, [0.3, 0.1], settings).coefficients_BT
    assert away[0, 0] < 0, "a step that moved away from its target keeps its gradient"


def test_ties_are_dropped() -> None:
    now, old, reference, _ = random_case(7, images=4)
    with_tie = loss_of(now, old, [1.0, 1.0, 0.0, 2.0], params(), reference)
    assert with_tie.num_pairs == 5
    assert with_tie.residuals_BB[0, 1] == with_tie.residuals_BB[1, 0] == 0
    assert with_tie.loss.item() == pytest.approx(with_tie.residuals_BB.square().sum().item() / 5)


def test_all_tied_prompt_is_zero_without_gradient() -> None:
    now, old, reference, _ = random_case(8, images=3)
    output = loss_of(now, old, [0.7, 0.7, 0.7], params(), reference)
    assert output.loss.item() == 0.0
    assert output.num_pairs == 0
    assert not output.coefficients_BT.any()


def test_a_constant_added_to_every_reward_changes_nothing() -> None:
    now, old, reference, _ = random_case(9, images=3)
    plain = loss_of(now, old, [1.0, 2.0, 4.0], params(), reference)
    shifted = loss_of(now, old, [6.0, 7.0, 9.0], params(), reference)
    assert torch.equal(plain.coefficients_BT, shifted.coefficients_BT)


def test_output_carries_no_gradient() -> None:
    now, old, reference, rewards = random_case(3)
    output = loss_of(now.requires_grad_(True), old, rewards.tolist(), params(), reference)
    assert not output.loss.requires_grad
    assert not output.coefficients_BT.requires_grad
