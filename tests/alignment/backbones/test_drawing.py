"""Each family's pipeline, called on states and noise, generates the same images as called on prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.drawing import drawing_of
from alignment.backbones.flux import _pack
from alignment.catalogues.lookup import resolve
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.evaluation.sampling import TextStates, _initial_latents, draw_batch, image_grid
from alignment.statistics.prompts import EvalPrompt

pytestmark = pytest.mark.timeout(300)

PROMPTS = ["a plain red picture", "a blue picture"]
FAMILIES = {"sdxl": 2.0, "sd3": 2.0, "flux": 3.5}
"""Module of a family to the guidance scale of its images."""


def loaded(module: str, base_dir: Path) -> Any:
    model = ModelRef(kind="base", weights_digest="0" * 64)
    return resolve(f"alignment.backbones.{module}:load_pipeline")(base_dir, model, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_images_generated_one_by_one(family: str, request: pytest.FixtureRequest) -> None:
    pipeline = loaded(family, request.getfixturevalue(f"tiny_{family}_dir"))
    sampler = Sampler(steps=3, guidance_scale=FAMILIES[family])
    keys = image_grid([EvalPrompt(i, text, "") for i, text in enumerate(PROMPTS)], (0,))
    texts = TextStates(drawing_of(pipeline))
    ours = draw_batch(pipeline, texts, keys, sampler=sampler, resolution=64)
    noise = _initial_latents(pipeline, keys, 64)
    noise = _pack(noise) if family == "flux" else noise
    for index, prompt in enumerate(PROMPTS):
        theirs = pipeline(
            prompt,
            latents=noise[index : index + 1],
            height=64,
            width=64,
            num_inference_steps=3,
            guidance_scale=FAMILIES[family],
            output_type="pt",
        ).images
        torch.testing.assert_close(ours[index : index + 1], theirs, atol=1e-4, rtol=0)
    assert (ours[0] - ours[1]).abs().max() > 1e-3


def test_an_unknown_pipeline_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Cannot sample with a object\. Known: .*StableDiffusionXLPipeline"):
        drawing_of(object())
