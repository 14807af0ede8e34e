"""MaPO, without reference model, in the parameterisations of its authors' code and of its paper. B counts pairs.

Both reward a low error through phi(x) = x / (exp(x) - 1), which falls from 1 at zero error to 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from alignment.catalogues.objectives import MaPO, MaPOPaper
from alignment.objectives.inputs import ObjectiveOutput, PairErrors

SERIES_BELOW = 1e-2
"""Below it three terms of the series are exact in float64, and the closed form's derivative loses half its digits."""


def mapo_loss(policy: PairErrors, params: MaPO) -> ObjectiveOutput:
    """Lower the chosen error, and keep it below the rejected one: m_w - beta log sigmoid(T (phi(s m_w) - phi(s m_l))).

    Source: the authors' code (mapo-t2i/mapo, utils.py), not their equation, which is `mapo_paper_loss`. T counts
    training timesteps and acts as the sharpness of the comparison, s is snr_value, beta their beta_mapo. There is no
    separate timestep weight. Errors are means over C, H, W. Departure: phi neither overflows nor cancels, so zero, tiny
    and huge errors give no NaN; in the authors' code the loss or its gradient is NaN there.
    Returns loss_B: mean squared error plus beta times nats. margin_B is the logit.
    """
    score_chosen_B = _phi(params.snr_value * policy.chosen_B.double())
    score_rejected_B = _phi(params.snr_value * policy.rejected_B.double())
    margin_B = params.num_train_timesteps * (score_chosen_B - score_rejected_B)
    return _output(policy, margin_B, weight=params.beta)


def mapo_paper_loss(policy: PairErrors, params: MaPOPaper) -> ObjectiveOutput:
    """m_w - (1 / beta) log sigmoid(beta (phi(m_w) - phi(m_l))).

    Source: the paper, arXiv:2406.06424v2. Its equation leaves open if phi_beta means a factor or a power. We use the
    factor: the gradient of the margin is then proportional to beta, as the text states, and every beta of the
    paper's figures trains. At equal, small errors dL/dm_w = 1.25 and dL/dm_l = -0.25 for any beta; beta sets how fast
    the preference fades as the margin grows. With a power the paper's best beta for personalisation, 1024, would give
    dL/dm_l = 0.000 at errors of 0.02 and more, since phi^1024 is 0 there: no preference would be learnt.
    beta absorbs the scale of the errors, so there is no s and no T. Errors are means over C, H, W.
    Returns loss_B: mean squared error plus nats over beta. margin_B, in (-beta, beta), is the logit.
    """
    margin_B = params.beta * (_phi(policy.chosen_B.double()) - _phi(policy.rejected_B.double()))
    return _output(policy, margin_B, weight=1 / params.beta)


def _output(policy: PairErrors, margin_B: Tensor, weight: float) -> ObjectiveOutput:
    kind = policy.chosen_B.dtype
    loss_B = policy.chosen_B - weight * F.logsigmoid(margin_B)
    return ObjectiveOutput(loss_B=loss_B.to(kind), margin_B=margin_B.detach().to(kind))


def _phi(x: Tensor) -> Tensor:
    """Return x / (exp(x) - 1) for x >= 0 in float64, with phi(0) = 1, phi'(0) = -1/2. It and its gradient are finite.

    Near 0 it uses the series 1 - x/2 + x^2/12 - x^4/720 (Bernoulli numbers), elsewhere x exp(-x) / (1 - exp(-x)).
    """
    x = x.double()
    near = x < SERIES_BELOW
    small = torch.where(near, x, 0.0)
    large = torch.where(near, 1.0, x)
    series = 1 - small / 2 + small.square() / 12 - small.pow(4) / 720
    return torch.where(near, series, -large * torch.exp(-large) / torch.expm1(-large))
