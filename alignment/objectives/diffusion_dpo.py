"""Diffusion-DPO. B counts pairs."""

import torch.nn.functional as F
from torch import Tensor

from alignment.catalogues.objectives import DiffusionDPO
from alignment.objectives.inputs import ObjectiveOutput, PairErrors

IPO_TARGET = 0.5


def diffusion_dpo_loss(policy: PairErrors, reference: PairErrors, params: DiffusionDPO) -> ObjectiveOutput:
    """Train the policy to improve on the reference more for the chosen image than for the rejected one.

    Source: Wallace et al. 2023, arXiv:2311.12908, and the authors' train.py, whose factor 0.5 we keep. T and the
    timestep weight have no separate term: beta includes them (diffusers drops the 0.5, so its 2500 is our 5000).
    Errors are means over C, H, W, not sums; beta is only comparable under that reduction. The target may be the noise,
    v or a flow's velocity. An error in v is the error in the noise divided by a_t, so with v the same beta has a
    stronger effect at high noise. Returns loss_B in nats (sigmoid link; hinge and ipo are in logits); margin_B is the
    logit, > 0 where the policy already agrees with the label.
    """
    gain_chosen_B = reference.chosen_B - policy.chosen_B
    gain_rejected_B = reference.rejected_B - policy.rejected_B
    margin_B = 0.5 * params.beta * (gain_chosen_B - gain_rejected_B)
    return ObjectiveOutput(loss_B=_link(margin_B, params), margin_B=margin_B.detach())


def _link(margin_B: Tensor, params: DiffusionDPO) -> Tensor:
    """Loss of a margin. ipo is Azar et al. 2023, arXiv:2310.12036, eq. 17: (h - 1 / (2 tau))^2, h being the log-ratio.

    The logit is tau h: beta includes tau and the unknown scale from errors to log-probabilities. Hence
    (logit - 1/2)^2, which is tau^2 times that loss; AdamW is invariant to the factor.
    """
    if params.link == "hinge":
        return F.relu(1 - margin_B)
    if params.link == "ipo":
        return (margin_B - IPO_TARGET).square()
    return -F.logsigmoid(margin_B)
