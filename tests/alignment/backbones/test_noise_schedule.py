"""Noise and targets by hand."""

import pytest
import torch

from alignment.backbones.noise_schedule import NoiseSchedule, _schedule_from_betas, checked_prediction_type

LATENTS = torch.full((2, 1, 1, 1), 2.0)
NOISE = torch.full((2, 1, 1, 1), 10.0)
TIMESTEPS = torch.tensor([0, 1])


def test_noise_and_velocity_by_hand() -> None:
    schedule = NoiseSchedule(torch.tensor([0.64, 0.36]), "v_prediction")
    assert schedule.num_timesteps == 2
    noisy = schedule.add_noise(LATENTS, NOISE, TIMESTEPS).flatten().tolist()
    assert noisy == pytest.approx([0.8 * 2 + 0.6 * 10, 0.6 * 2 + 0.8 * 10])
    target = schedule.target(LATENTS, NOISE, TIMESTEPS).flatten().tolist()
    assert target == pytest.approx([0.8 * 10 - 0.6 * 2, 0.6 * 10 - 0.8 * 2])


def test_the_epsilon_target_is_the_noise() -> None:
    schedule = _schedule_from_betas(torch.tensor([0.1, 0.5]), "epsilon")
    assert schedule.alphas_cumprod_T.tolist() == pytest.approx([0.9, 0.45])
    assert torch.equal(schedule.target(LATENTS, NOISE, TIMESTEPS), NOISE)


def test_unknown_prediction_types_are_refused_by_name() -> None:
    assert checked_prediction_type("v_prediction", "x") == "v_prediction"
    with pytest.raises(ValueError, match=r"here states prediction_type 'flow'.*epsilon, v_prediction"):
        checked_prediction_type("flow", "here")


def test_timesteps_are_drawn_uniformly_from_the_generator_alone() -> None:
    schedule = _schedule_from_betas(torch.linspace(0.01, 0.1, 10), "epsilon")
    drawn = [schedule.draw_timestep(torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert set(drawn) == set(range(10))
    expected = [int(torch.randint(10, (), generator=torch.Generator().manual_seed(seed))) for seed in range(300)]
    assert drawn == expected
