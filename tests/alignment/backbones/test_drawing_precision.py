"""In bf16 text encoders and denoiser compute in bf16; latents, steps and VAE stay in float32, in every family."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.drawing import drawing_of
from alignment.backbones.drawing_precision import _cast, set_precision
from alignment.catalogues.lookup import resolve
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.evaluation.sampling import TextStates, draw_batch, image_grid
from alignment.statistics.prompts import EvalPrompt

pytestmark = pytest.mark.timeout(300)

FAMILIES = {"sd": "stable_diffusion", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}
KEYS = image_grid([EvalPrompt(0, "a plain red picture", ""), EvalPrompt(1, "a blue picture", "")], (0,))


def load(family: str, request: pytest.FixtureRequest) -> Any:
    base_dir: Path = request.getfixturevalue(f"tiny_{family}_dir")
    model = ModelRef(kind="base", weights_digest="0" * 64)
    return resolve(f"alignment.backbones.{FAMILIES[family]}:load_pipeline")(base_dir, model, None)


def drawn(pipeline: Any) -> torch.Tensor:
    sampler = Sampler(steps=3, guidance_scale=2.0)
    return draw_batch(pipeline, TextStates(drawing_of(pipeline)), KEYS, sampler=sampler, resolution=64)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_in_bf16_are_near_those_in_fp32(family: str, request: pytest.FixtureRequest) -> None:
    pipeline = load(family, request)
    exact = drawn(pipeline)
    set_precision(pipeline, "fp32")
    assert torch.equal(drawn(pipeline), exact)
    set_precision(pipeline, "bf16")
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    steps: list[tuple[torch.dtype, torch.dtype]] = []
    step = pipeline.scheduler.step

    @functools.wraps(step)
    def watched(predicted: torch.Tensor, timestep: Any, latents: torch.Tensor, **named: Any) -> Any:
        steps.append((predicted.dtype, latents.dtype))
        return step(predicted, timestep, latents, **named)

    pipeline.scheduler.step = watched
    rounded = drawn(pipeline)
    assert (denoiser.dtype, pipeline.text_encoder.dtype, pipeline.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    assert steps == [(torch.float32, torch.float32)] * 3
    assert pipeline.vae.use_slicing
    spread = (exact[0] - exact[1]).abs().mean()
    assert 0 < (rounded - exact).abs().mean() < spread / 5


def test_timesteps_and_integers_are_not_rounded() -> None:
    odd = torch.tensor([987.3])
    given = {"timestep": odd, "ids": torch.tensor([3]), "inner": {"states": odd}, "none": None}
    found = _cast(given, torch.bfloat16)
    assert found["timestep"] is odd
    assert found["ids"].dtype == torch.int64
    assert found["inner"]["states"].dtype == torch.bfloat16
    assert _cast((odd, None), torch.bfloat16)[0].item() == 988
