"""Ancestral steps: densities equal to diffusers' DDIM at eta = 1, timesteps, and the path of a known image."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from alignment.backbones.ancestral import next_latent, predicted_image, sampling_timesteps
from alignment.backbones.noise_schedule import NoiseSchedule, PredictionType


def schedule_of(prediction_type: PredictionType) -> tuple[NoiseSchedule, DDIMScheduler]:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return NoiseSchedule(scheduler.alphas_cumprod, prediction_type), scheduler


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_steps_are_those_of_ddim_with_eta_one(prediction_type: PredictionType) -> None:
    schedule, scheduler = schedule_of(prediction_type)
    scheduler.set_timesteps(20)
    timesteps = sampling_timesteps(1000, 20)
    assert [start for start, _ in timesteps] == scheduler.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    prediction, latents, noise = torch.randn(3, 2, 4, 8, 8, generator=generator)
    for start, end in timesteps[:-1]:
        starts, ends = torch.full((2,), start), torch.full((2,), end)
        density = next_latent(schedule, prediction, latents, timesteps_B=starts, next_B=ends)
        stepped = scheduler.step(prediction, start, latents, eta=1.0, variance_noise=noise)
        assert torch.allclose(density.draw(noise), stepped.prev_sample, rtol=1e-4, atol=1e-4)
        image = predicted_image(schedule, prediction, latents, starts)
        assert torch.allclose(image.float(), stepped.pred_original_sample, rtol=1e-4, atol=1e-3)


def test_log_prob_is_the_mean_over_the_elements_of_a_normal_density() -> None:
    schedule, _ = schedule_of("epsilon")
    prediction, latents, after = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    starts, ends = torch.tensor([501, 901]), torch.tensor([451, 851])
    density = next_latent(schedule, prediction, latents, timesteps_B=starts, next_B=ends)
    for image in range(2):
        normal = torch.distributions.Normal(density.mean_BCHW[image], density.variance_B[image].sqrt())
        assert density.log_prob(after)[image].item() == pytest.approx(
            normal.log_prob(after[image].double()).mean().item()
        )
    on_the_mean = density.log_prob(density.mean_BCHW)
    assert on_the_mean[0].item() == pytest.approx(-0.5 * math.log(2 * math.pi * density.variance_B[0].item()))
    assert on_the_mean.dtype == torch.float64


def test_last_step_ends_at_zero_and_too_many_steps_are_refused() -> None:
    assert sampling_timesteps(1000, 10)[-2:] == [(101, 1), (1, 0)]
    assert len(sampling_timesteps(1000, 50)) == 50
    with pytest.raises(ValueError, match="800 sampler steps are too many for a schedule of 1000 timesteps"):
        sampling_timesteps(1000, 800)
