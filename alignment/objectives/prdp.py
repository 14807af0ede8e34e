"""PRDP: regress the difference of two trajectories' log-likelihood ratios on the difference of their images' rewards.

B counts images of one prompt, T denoising steps; a pair is (better image i, worse image j), so pairs fill a BB table.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.catalogues.objectives import PRDP


@dataclass(frozen=True)
class ScoredTrajectories:
    """Images of one prompt: log-probabilities of their denoising steps (each a mean over C, H, W) and their rewards."""

    log_probs_BT: Tensor
    """Under the current weights."""
    old_log_probs_BT: Tensor
    """Under the weights that generated the images. Use the same dtype and batching, or the clip reacts to rounding."""
    rewards_B: Tensor


@dataclass(frozen=True)
class PRDPOutput:
    """Loss and coefficients, all float64. No tensor carries a gradient."""

    loss: Tensor
    """Mean over pairs; 0 when all images tie."""
    coefficients_BT: Tensor
    """d loss / d log_probs_BT: the factor of each step's log-probability in a separate backward pass per step."""
    residuals_BB: Tensor
    """Residual of each pair in the branch that counts, nats; 0 where [i, j] is not a pair."""
    margins_BB: Tensor
    """Log-ratio of i minus that of j, nats; 0 where [i, j] is not a pair."""
    is_pair_BB: Tensor
    """True where image i has a strictly larger reward than image j."""
    clipped_share: float
    """Share of (image, step) combinations outside the clip range."""

    @property
    def num_pairs(self) -> int:
        """Number of pairs with different rewards. Each unordered pair counts once."""
        return int(self.is_pair_BB.sum())


@torch.no_grad()
def prdp_loss(policy: ScoredTrajectories, reference: Tensor, params: PRDP) -> PRDPOutput:
    """Regress differences of log-ratios on differences of rewards over beta; the larger of plain and clipped counts.

    Source: Deng et al. 2024, arXiv:2402.08714, equations 10 to 21 as the listing of its appendix G computes them: the
    log-ratio of a trajectory is the mean over its steps (the text has the sum), and pairs of equal reward are dropped.
    Departures: when all images tie, the listing gives NaN and this function returns 0 without gradient. The larger
    branch is found from the sign of (a - b)(a + b - 2 d), with a - b computed from the clipped excess, because the
    squares themselves are nearly equal in float32. `reference` is log_probs_BT under the reference.
    """
    log_probs_BT, old_BT = policy.log_probs_BT.double(), policy.old_log_probs_BT.double()
    moved_BT = log_probs_BT - old_BT
    inside_BT = moved_BT.abs() <= params.clip_range
    cut_off_B = (moved_BT - moved_BT.clamp(-params.clip_range, params.clip_range)).mean(dim=1)
    plain_B = (log_probs_BT - reference.double()).mean(dim=1)
    rewards_B = policy.rewards_B.double()
    is_pair_BB = rewards_B[:, None] > rewards_B[None, :]
    plain_BB, cut_off_BB = _differences(plain_B), _differences(cut_off_B)
    wanted_BB = _differences(rewards_B) / params.beta
    use_clipped_BB = cut_off_BB * (2 * (plain_BB - wanted_BB) - cut_off_BB) < 0
    residuals_BB = (plain_BB - wanted_BB - cut_off_BB * use_clipped_BB) * is_pair_BB
    slopes_BB = 2 * residuals_BB / is_pair_BB.sum().clamp(min=1)
    plain_slopes_B = _slopes(slopes_BB * ~use_clipped_BB)
    clipped_slopes_B = _slopes(slopes_BB * use_clipped_BB)
    return PRDPOutput(
        loss=residuals_BB.square().sum() / is_pair_BB.sum().clamp(min=1),
        coefficients_BT=(plain_slopes_B[:, None] + clipped_slopes_B[:, None] * inside_BT) / moved_BT.shape[1],
        residuals_BB=residuals_BB,
        margins_BB=plain_BB * is_pair_BB,
        is_pair_BB=is_pair_BB,
        clipped_share=1.0 - float(inside_BT.double().mean()),
    )


def _differences(values_B: Tensor) -> Tensor:
    return values_B[:, None] - values_B[None, :]


def _slopes(slopes_BB: Tensor) -> Tensor:
    """Derivative by each image's mean log-ratio, which enters a pair with + as the better and with - as the worse."""
    return slopes_BB.sum(dim=1) - slopes_BB.sum(dim=0)
