"""Replay PRDP: the loss of the paper's listing with its gradient, and log-probabilities of ancestral steps."""

import torch
from recorded import Case
from torch import Tensor

from alignment.backbones.ancestral import next_latent
from alignment.backbones.noise_schedule import NoiseSchedule, checked_prediction_type
from alignment.catalogues.objectives import PRDP
from alignment.objectives.prdp import PRDPOutput, ScoredTrajectories, prdp_loss

EXACT = 1e-9
"""Relative tolerance against float64 numbers."""
OFFICIAL = 1e-4
"""Relative tolerance against float32 numbers."""
TRAJECTORIES = {"log_probs", "log_probs_old", "log_probs_ref", "rewards"}
STEP = {"alphas_cumprod", "timesteps", "prev_timesteps", "x_t", "model_output", "x_prev"}


def takes(case: Case) -> bool:
    """Trajectories with rewards, or one step of a sampler."""
    fields = set(case.fields)
    return fields >= TRAJECTORIES or fields >= STEP


def replay(case: Case) -> None:
    """Compare trajectories or a sampler's step, by the fields of the case."""
    if set(case.fields) >= STEP:
        _replay_step(case)
    else:
        _replay_loss(case)


def _replay_step(case: Case) -> None:
    origin = f"{case.method}/{case.name}"
    schedule = NoiseSchedule(
        case["alphas_cumprod"], checked_prediction_type(str(case.params["prediction_type"]), origin)
    )
    density = next_latent(
        schedule,
        case["model_output"],
        case["x_t"],
        timesteps_B=case["timesteps"],
        next_B=case["prev_timesteps"],
    )
    log_prob_B = density.log_prob(case["x_prev"])
    numel = case["x_prev"][0].numel()
    rounding = EXACT * float(density.mean_BCHW.abs().max())
    case.expect("posterior_mean_f64", density.mean_BCHW, relative=EXACT, absolute=rounding)
    case.expect("posterior_var_f64", density.variance_B, relative=EXACT)
    case.expect("log_prob_mean_f64", log_prob_B, relative=EXACT)
    case.expect("log_prob_sum_f64", log_prob_B * numel, relative=EXACT)
    case.expect("log_prob_mean", log_prob_B, relative=OFFICIAL, absolute=OFFICIAL)


def _replay_loss(case: Case) -> None:
    params = PRDP(
        reward="recorded",
        beta=float(case.params["kl_weight"]),
        clip_range=float(case.params["clip_range"]),
        images_per_prompt=max(2, len(case["rewards"])),
    )
    policy = ScoredTrajectories(case["log_probs"], case["log_probs_old"], case["rewards"])
    output = prdp_loss(policy, case["log_probs_ref"], params)
    case.require("our loss and gradient are finite", _is_finite(output))
    if output.num_pairs == 0:
        case.require("our loss and gradient are 0", not output.loss and not bool(output.coefficients_BT.any()))
        case.remarks.append("all images tie: the recorded code divides 0 by 0, ours is 0 without gradient")
        return
    for name, tolerance in (("loss_official_f64", EXACT), ("loss_official_f32", OFFICIAL)):
        if name in case:
            case.expect(name, output.loss.reshape(case[name].shape), relative=tolerance)
    rounding = EXACT * float(output.coefficients_BT.abs().max())
    case.expect("grad_log_probs_official_f64", output.coefficients_BT, relative=EXACT, absolute=rounding)
    _expect_pairs(case, output)


def _is_finite(output: PRDPOutput) -> bool:
    return bool(output.loss.isfinite()) and bool(output.coefficients_BT.isfinite().all())


def _expect_pairs(case: Case, output: PRDPOutput) -> None:
    """Compare with the larger of the recorded squared errors of each pair."""
    names = ("unclipped_pair_loss_mean_T", "clipped_pair_loss_mean_T")
    if not all(name in case for name in names):
        return
    recorded_BB: Tensor = torch.maximum(case[names[0]], case[names[1]]) * output.is_pair_BB
    case.expect("larger pair loss", output.residuals_BB.square(), relative=EXACT, against=recorded_BB)
