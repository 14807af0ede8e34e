"""Flow matching: values by hand, moments of its density, and shared noise within a pair."""

import math

import pytest
import torch

from alignment.backbones.flow_matching import FlowMatchingSchedule
from alignment.backbones.noise_schedule import ForwardProcess
from alignment.training.batches import PairBatch
from alignment.training.offline import _noise_pairs

LATENTS = torch.full((3, 1, 1, 1), 2.0)
NOISE = torch.full((3, 1, 1, 1), 10.0)
TIMESTEPS = torch.tensor([0.0, 250.0, 1000.0])


def draws(schedule: ForwardProcess, count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.tensor([schedule.draw_timestep(generator) for _ in range(count)], dtype=torch.float64) / 1000


def test_noise_and_velocity_by_hand() -> None:
    schedule = FlowMatchingSchedule()
    assert schedule.add_noise(LATENTS, NOISE, TIMESTEPS).flatten().tolist() == [2.0, 0.75 * 2 + 0.25 * 10, 10.0]
    assert schedule.target(LATENTS, NOISE, TIMESTEPS).flatten().tolist() == [8.0, 8.0, 8.0]


def test_the_velocity_leads_from_image_to_noise() -> None:
    schedule = FlowMatchingSchedule()
    noisy = schedule.add_noise(LATENTS, NOISE, TIMESTEPS)
    velocity = schedule.target(LATENTS, NOISE, TIMESTEPS)
    share = TIMESTEPS.reshape(-1, 1, 1, 1) / 1000
    torch.testing.assert_close(noisy - share * velocity, LATENTS)
    torch.testing.assert_close(noisy + (1 - share) * velocity, NOISE)


def test_shares_are_logit_normal() -> None:
    logits = torch.logit(draws(FlowMatchingSchedule(density_mean=0.5, density_std=0.8)))
    assert logits.mean().item() == pytest.approx(0.5, abs=0.05)
    assert logits.std().item() == pytest.approx(0.8, abs=0.04)


def test_the_shift_moves_towards_noise() -> None:
    plain, shifted = draws(FlowMatchingSchedule()), draws(FlowMatchingSchedule(shift=3.0))
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    logits = torch.logit(shifted)
    assert logits.mean().item() == pytest.approx(math.log(3.0), abs=0.06), "a shift moves the logit"


def test_impossible_densities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"density_std 0.*above 0"):
        FlowMatchingSchedule(density_std=0.0)
    with pytest.raises(ValueError, match=r"shift -1"):
        FlowMatchingSchedule(shift=-1.0)


def test_a_pair_shares_noise_and_timestep() -> None:
    chosen, rejected, noise = torch.randn(3, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    batch = PairBatch(
        chosen_BCHW=chosen,
        rejected_BCHW=rejected,
        noise_BCHW=noise,
        timesteps_B=torch.tensor([100.5, 900.25]),
        chosen_captions={"text": torch.zeros(2, 1)},
        rejected_captions={"text": torch.zeros(2, 1)},
        weight_B=torch.ones(2),
    )
    noised = _noise_pairs(batch, FlowMatchingSchedule())
    assert noised.timesteps_B.tolist() == [100.5, 900.25, 100.5, 900.25]
    torch.testing.assert_close(noised.target_BCHW, torch.cat([noise - chosen, noise - rejected]))
    torch.testing.assert_close(noised.noisy_BCHW[3], 0.09975 * rejected[1] + 0.90025 * noise[1])
