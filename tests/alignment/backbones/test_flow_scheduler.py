"""The training shift equals the one that diffusers' scheduler applies in sampling."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from alignment.backbones.flow_scheduler import _scheduler_shift, load_flow_schedule


def saved(folder: Path, **config: Any) -> Path:
    FlowMatchEulerDiscreteScheduler(**config).save_pretrained(folder / "scheduler")
    return folder


def sampled_sigmas(folder: Path, num_image_tokens: int) -> torch.Tensor:
    """The sampler's shifted values of the shares of noise 0.9, 0.5 and 0.1."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    mu = calculate_shift(num_image_tokens) if scheduler.config.use_dynamic_shifting else None
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.1], mu=mu)
    return scheduler.sigmas[:3]


@pytest.mark.parametrize(
    "config",
    [
        {"shift": 3.0},
        {"shift": 1.0},
        {"shift": 3.0, "use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ],
)
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_a_share_of_noise_moves_as_in_sampling(tmp_path: Path, config: dict[str, Any], tokens: int) -> None:
    folder = saved(tmp_path, **config)
    shift = load_flow_schedule(folder, tokens).shift
    shares = torch.tensor([0.9, 0.5, 0.1])
    torch.testing.assert_close(shift * shares / (1 + (shift - 1) * shares), sampled_sigmas(folder, tokens))


def test_the_dynamic_shift_by_hand() -> None:
    assert _scheduler_shift({"use_dynamic_shifting": True}, 4096) == pytest.approx(math.exp(1.15))
    assert _scheduler_shift({"use_dynamic_shifting": True, "shift": 3.0}, 256) == pytest.approx(math.exp(0.5))
    assert _scheduler_shift({"shift": 3.0}, 4096) == 3.0


@pytest.mark.parametrize("config", [{"shift": 3.0}, {"shift": 3.0, "use_dynamic_shifting": True}])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 168), (168, 96)])
def test_the_shift_of_a_latent_equals_that_of_sampling_at_its_size(
    tmp_path: Path, config: dict[str, Any], height: int, width: int
) -> None:
    folder = saved(tmp_path, **config)
    shift = load_flow_schedule(folder, 4096).for_latent(height, width).shift
    shares = torch.tensor([0.9, 0.5, 0.1])
    tokens = height * width // 4
    torch.testing.assert_close(shift * shares / (1 + (shift - 1) * shares), sampled_sigmas(folder, tokens))


def test_drawn_timesteps_have_the_shifted_median(tmp_path: Path) -> None:
    schedule = load_flow_schedule(saved(tmp_path, shift=3.0), 16)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([schedule.draw_timestep(generator) for _ in range(4000)])
    assert float(drawn.median()) == pytest.approx(750, abs=12), "3 * 0.5 / (1 + 2 * 0.5)"
    assert float(drawn.min()) > 0
    assert float(drawn.max()) < 1000


def test_other_schedulers_and_counts_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, num_train_timesteps=500)
    with pytest.raises(ValueError, match=r"with 500 timesteps.*1000"):
        load_flow_schedule(folder, 16)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "EulerDiscreteScheduler"}))
    with pytest.raises(ValueError, match="EulerDiscreteScheduler"):
        load_flow_schedule(folder, 16)
