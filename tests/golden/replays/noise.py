"""Replay the noising of pairs: shared noise and timestep, and the schedule."""

import torch
from recorded import Case
from torch import Tensor

from alignment.backbones.noise_schedule import NoiseSchedule, _schedule_from_betas, checked_prediction_type
from alignment.training.batches import PairBatch
from alignment.training.offline import _noise_pairs

BATCH = {"latents", "noise", "timesteps", "noisy_latents", "alphas_cumprod"}
SCHEDULE = {"betas", "alphas_cumprod_after"}


def takes(case: Case) -> bool:
    """A noised batch without a prediction, or a schedule before and after rescaling."""
    return "model_pred" not in case and (set(case.fields) >= BATCH or set(case.fields) >= SCHEDULE)


def replay(case: Case) -> None:
    """Compare the batch, or the schedule."""
    if "betas" in case:
        replay_terminal_snr(case)
    else:
        replay_batch(case)


def schedule_of(case: Case) -> NoiseSchedule:
    name = case.params.get("prediction_type", "epsilon")
    return NoiseSchedule(case["alphas_cumprod"], checked_prediction_type(name, case.name))


def _batch(case: Case) -> PairBatch:
    """Return the case as one of our batches, without the loser's noise and timestep, which our batches share."""
    chosen_BCHW, rejected_BCHW = case["latents"].chunk(2)
    pairs = len(chosen_BCHW)
    return PairBatch(
        chosen_BCHW=chosen_BCHW,
        rejected_BCHW=rejected_BCHW,
        noise_BCHW=case["noise"][:pairs],
        timesteps_B=case["timesteps"][:pairs],
        chosen_captions={},
        rejected_captions={},
        weight_B=torch.ones(pairs),
    )


def recorded_target(case: Case) -> Tensor:
    """Return our regression target, compared with a recorded one; the recorded one if ours cannot be computed."""
    if not {"latents", "noise", "timesteps", "alphas_cumprod"} <= set(case.fields):
        return case["target"]
    noised = _noise_pairs(_batch(case), schedule_of(case))
    case.expect("target", noised.target_BCHW, absolute=1e-6)
    case.expect("noisy_latents", noised.noisy_BCHW, absolute=1e-6)
    return noised.target_BCHW


def replay_batch(case: Case) -> None:
    """Check that noise and timestep are shared within a pair, and compare the noised latents."""
    schedule = schedule_of(case)
    noised = _noise_pairs(_batch(case), schedule)
    case.expect("noise", noised.target_BCHW, absolute=0.0)
    case.require("timesteps shared", torch.equal(case["timesteps"], noised.timesteps_B))
    if "new_noise" not in case:
        case.expect("noisy_latents", noised.noisy_BCHW, absolute=1e-6)
        return
    perturbed = schedule.add_noise(case["latents"], case["new_noise"], case["timesteps"])
    case.expect("noisy_latents", perturbed, absolute=1e-6)
    case.remarks.append("input perturbation is not supported: the recorded code gives the loser unrelated noise")


def replay_terminal_snr(case: Case) -> None:
    """Compare a schedule with zero terminal SNR, as a scheduler configuration may request."""
    from diffusers import DDPMScheduler

    case.expect("alphas_cumprod_before", _schedule_from_betas(case["betas"], "epsilon").alphas_cumprod_T)
    scheduler = DDPMScheduler(trained_betas=case["betas"].numpy(), rescale_betas_zero_snr=True)
    ours = NoiseSchedule(scheduler.alphas_cumprod.float(), "epsilon").alphas_cumprod_T
    case.expect("alphas_cumprod_after", ours, absolute=1e-7)
