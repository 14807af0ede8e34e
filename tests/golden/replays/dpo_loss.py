"""Replay the Diffusion-DPO loss: errors, logit, loss, accuracy and gradient. DCPO's is equal, diffusers' is scaled."""

import torch
from recorded import FLOAT32_SPACING, Case
from replays.noise import recorded_target
from torch import Tensor

from alignment.catalogues.objectives import DCPO, DiffusionDPO
from alignment.objectives.dcpo import dcpo_loss
from alignment.objectives.diffusion_dpo import diffusion_dpo_loss
from alignment.objectives.inputs import PairErrors
from alignment.training.offline import _monitors, _pair_errors


def takes(case: Case) -> bool:
    """Predictions of a policy and of a reference."""
    return "model_pred" in case and "ref_pred" in case


def replay(case: Case) -> None:
    """Compare errors, margin, loss, accuracy and gradient of a Diffusion-DPO case."""
    prediction = case["model_pred"].float().requires_grad_(True)
    target = recorded_target(case)
    policy = _pair_errors(prediction, target)
    reference = _pair_errors(case["ref_pred"], target)
    # The authors' beta carries a factor 0.5 that diffusers' SD1.x script dropped; ours is the authors'.
    scale = 2.0 if "logits" in case or "loss_type" in case.params else 1.0
    beta = scale * case.params["beta_dpo"]
    if case.method == "dcpo":
        output = dcpo_loss(policy, reference, DCPO(beta=beta))
    else:
        params = DiffusionDPO.model_validate({"beta": beta, "link": case.params.get("loss_type", "sigmoid")})
        output = diffusion_dpo_loss(policy, reference, params)
    output.loss_B.mean().backward()
    assert prediction.grad is not None
    largest = max(errors.max().item() for errors in (policy.chosen_B, policy.rejected_B, reference.chosen_B))
    rounding = 4 * FLOAT32_SPACING * largest
    logit_rounding = 0.5 * beta * rounding
    if _reference_was_rounded(case):
        _expect_float32_answer(case, output.margin_B, output.loss_B.mean(), logit_rounding)
        return
    _expect_errors(case, policy, reference, rounding)
    case.expect("inside_term", output.margin_B, absolute=logit_rounding)
    case.expect("logits", output.margin_B / beta * 2, absolute=rounding)
    case.expect("loss", output.loss_B.mean(), absolute=min(1.0, logit_rounding))
    case.expect("grad_model_pred", prediction.grad, absolute=_gradient_rounding(case, logit_rounding))
    _expect_accuracy(case, output.margin_B, _monitors(output, policy, reference)["implicit_accuracy"])


def _expect_errors(case: Case, policy: PairErrors, reference: PairErrors, rounding: float) -> None:
    case.expect("model_losses_w", policy.chosen_B)
    case.expect("model_losses_l", policy.rejected_B)
    case.expect("ref_losses_w", reference.chosen_B)
    case.expect("ref_losses_l", reference.rejected_B)
    case.expect("model_diff", policy.chosen_B - policy.rejected_B, absolute=rounding)
    case.expect("ref_diff", reference.chosen_B - reference.rejected_B, absolute=rounding)
    case.expect("raw_model_loss", torch.cat([policy.chosen_B, policy.rejected_B]).mean())
    case.expect("raw_ref_loss", torch.cat([reference.chosen_B, reference.rejected_B]).mean())


def _expect_accuracy(case: Case, margin_B: Tensor, ours_B: Tensor) -> None:
    """Compare accuracy. diffusers counts an exact tie as half, as we do; the authors count it as wrong."""
    if "logits" in case:
        case.expect("implicit_acc", ours_B.mean(), absolute=1e-6)
    else:
        case.expect("implicit_acc", (margin_B > 0).float().mean(), absolute=1e-6)
        if bool((margin_B == 0).any()):
            case.remarks.append("ties counted as the authors do; our monitor counts them half")


def _gradient_rounding(case: Case, logit_rounding: float) -> float:
    """The gradient is the link's derivative, in (0, 1), times a vector. Rounding of the logit changes the former."""
    largest = case["grad_model_pred"].abs().max().item() if "grad_model_pred" in case else 0.0
    return min(0.25, logit_rounding) * largest + 1e-12


def _reference_was_rounded(case: Case) -> bool:
    return case.fields["ref_pred"]["dtype"] in {"float16", "bfloat16"}


def _expect_float32_answer(case: Case, margin_B: Tensor, loss: Tensor, absolute: float) -> None:
    """If the recorded run lost precision, our value must equal the recorded float32 value, not the rounded one."""
    case.expect("inside_term_fp32_reference", margin_B, absolute=absolute)
    case.expect("loss_fp32_reference", loss, absolute=absolute)
    if "loss" in case:
        lost = (case["loss"].double() - loss.detach().double()).abs().item()
        case.remarks.append(f"half-precision reference is off by {lost:.3g} in the loss; ours is the float32 value")
