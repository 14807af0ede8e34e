"""Replay the MaPO loss of the authors' code; where that code divides 0 by 0 or overflows, use the exact value."""

import torch
import torch.nn.functional as F
from recorded import FLOAT32_SPACING, Case
from replays.noise import recorded_target
from torch import Tensor

from alignment.catalogues.objectives import MaPO
from alignment.objectives.inputs import ObjectiveOutput, PairErrors
from alignment.objectives.mapo import _phi, mapo_loss
from alignment.training.offline import _pair_errors

OFFICIAL = 2e-4
"""Relative tolerance against float32 numbers whose exp(x) - 1 cancels."""
EXACT = 1e-6
HOPELESS_LOGITS = 0.1
"""A recorded logit that cancellation may have changed by more than this is not compared."""


def takes(case: Case) -> bool:
    """Errors of both sides of a policy, and MaPO's parameters."""
    return {"model_pred", "model_losses_w", "model_losses_l"} <= set(case.fields) and "beta_mapo" in case.params


def replay(case: Case) -> None:
    """Compare errors, scores, comparison, loss and gradient; then the exact loss."""
    params = MaPO(
        beta=case.params["beta_mapo"],
        snr_value=case.params["snr_value"],
        num_train_timesteps=case.params["num_train_timesteps"],
    )
    prediction = case["model_pred"].float().requires_grad_(True)
    policy = _pair_errors(prediction, recorded_target(case))
    output = mapo_loss(policy, params)
    output.loss_B.mean().backward()
    assert prediction.grad is not None
    case.expect("model_losses_w", policy.chosen_B)
    case.expect("model_losses_l", policy.rejected_B)
    case.require("our loss is finite", bool(output.loss_B.isfinite().all()))
    case.require("our gradient is finite", bool(prediction.grad.isfinite().all()))
    sound_B = _sound_pairs(case, policy, params)
    _expect_sound_pairs(case, policy, output, params=params, sound_B=sound_B)
    _expect_gradient(case, prediction.grad, sound_B, params)
    _expect_exact(case, output, params)
    if not bool(sound_B.all()):
        case.remarks.append(
            f"the recorded loss or gradient of {int((~sound_B).sum())} pair(s) is NaN or lost to cancellation;"
            " ours is the finite exact value"
        )


def _comparison(output: ObjectiveOutput, params: MaPO) -> Tensor:
    """beta log sigmoid(logit), named ratio_losses in the recorded code."""
    return params.beta * F.logsigmoid(output.margin_B)


def _logit_rounding(case: Case, params: MaPO) -> Tensor:
    """Largest change of each pair's logit by float32's exp(x) - 1, at the smaller of its errors."""
    smaller_B = torch.minimum(case["model_losses_w"], case["model_losses_l"]).double()
    return params.num_train_timesteps * FLOAT32_SPACING / (params.snr_value * smaller_B)


def _sound_pairs(case: Case, policy: PairErrors, params: MaPO) -> Tensor:
    """True for pairs whose recorded numbers can be compared: all finite and not lost to cancellation."""
    sound_B = _logit_rounding(case, params) < HOPELESS_LOGITS
    for name in ("ratio_losses", "model_losses_w", "model_losses_l"):
        sound_B &= case[name].isfinite() if name in case else True
    if "grad_model_pred" in case:
        for side in case["grad_model_pred"].chunk(2):
            sound_B &= side.flatten(1).isfinite().all(dim=1)
    assert sound_B.shape == policy.chosen_B.shape
    return sound_B


def _expect_sound_pairs(
    case: Case, policy: PairErrors, output: ObjectiveOutput, *, params: MaPO, sound_B: Tensor
) -> None:
    if "ratio_losses" in case and bool(sound_B.any()):
        ours_B = _comparison(output, params)[sound_B]
        absolute = params.beta * float(_logit_rounding(case, params)[sound_B].max())
        case.expect("ratio_losses", ours_B, relative=OFFICIAL, absolute=absolute, against=case["ratio_losses"][sound_B])
    for name, errors_B in (("win_score", policy.chosen_B), ("lose_score", policy.rejected_B)):
        if name in case and bool(case[name].isfinite()) and bool(sound_B.all()):
            case.expect(name, _phi(params.snr_value * errors_B).mean(), relative=OFFICIAL)
    lost = float(_logit_rounding(case, params).max())
    if "loss" in case and bool(case["loss"].isfinite()) and lost < HOPELESS_LOGITS:
        case.expect("loss", output.loss_B.mean(), relative=OFFICIAL, absolute=params.beta * lost)


def _expect_gradient(case: Case, gradient: Tensor, sound_B: Tensor, params: MaPO) -> None:
    """Rounding of the logit changes the derivative of log sigmoid, a factor of every entry of the gradient."""
    if "grad_model_pred" not in case or not bool(sound_B.any()):
        return
    rows = torch.cat([sound_B, sound_B])
    recorded = case["grad_model_pred"][rows]
    moved = min(0.25, OFFICIAL + float(_logit_rounding(case, params)[sound_B].max()))
    absolute = moved * recorded.abs().max().item()
    case.expect("grad_model_pred", gradient[rows], absolute=absolute, against=recorded)


def _expect_exact(case: Case, output: ObjectiveOutput, params: MaPO) -> None:
    """Compare with the float64 loss of the recorded errors, and with the loss of our errors."""
    recorded = PairErrors(case["model_losses_w"].double(), case["model_losses_l"].double())
    exact = mapo_loss(recorded, params)
    case.expect("stable_ratio_losses_f64", _comparison(exact, params), relative=EXACT)
    case.expect("stable_loss_f64", exact.loss_B.mean(), relative=EXACT)
    if "stable_loss_f64" in case:
        ours = output.loss_B.mean()
        case.expect("our float32 loss", ours, relative=10 * EXACT, against=case["stable_loss_f64"])
