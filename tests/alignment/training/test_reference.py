"""The reference is the base, whatever happened to the policy."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.catalogues.backbones import StableDiffusion
from alignment.contracts.jobs import Placement
from alignment.contracts.training import Recipe
from alignment.training.reference import never, predictor, reference_predictor
from alignment.training.update import Workbench

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)

CPU = torch.device("cpu")


def recipe(kind: str, precision: str = "fp32") -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "backbone": StableDiffusion(resolution=64),
            "objective": {"name": "diffusion_dpo"},
            "tuning": {"kind": kind},
            "optimiser": {"learning_rate": 1e-3},
            "global_batch": 1,
            "steps": 1,
            "seed": 0,
            "precision": precision,
        }
    )


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_reference_is_the_base_after_the_policy_has_changed(tiny_sd_dir: Path, kind: str) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    base, denoiser = backbone.load_denoiser(), backbone.load_denoiser()
    backbone.attach(denoiser, recipe(kind).tuning, seed=0)
    with torch.no_grad():
        for weight in denoiser.parameters():
            if weight.requires_grad:
                weight.add_(0.05)
    policy = predictor(backbone, denoiser, recipe(kind), CPU)
    accelerator = Accelerator(cpu=True)
    bench = Workbench(recipe(kind), Placement(), backbone, accelerator, denoiser=denoiser, wrapped=denoiser)
    reference = reference_predictor(bench)
    inputs = (
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 800]),
        backbone.encode_captions(["red", "blue"]),
    )
    with torch.no_grad():
        expected = predictor(backbone, base, recipe(kind), CPU)(*inputs)
        assert torch.equal(reference(*inputs), expected)
        assert not torch.allclose(policy(*inputs), expected)
    assert policy(*inputs).requires_grad, "the adapters are on again"


def test_autocast_is_the_recipes(tiny_sd_dir: Path) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    denoiser = backbone.load_denoiser()
    inputs = (torch.zeros(1, 4, 8, 8), torch.tensor([3]), backbone.encode_captions(["red"]))
    assert predictor(backbone, denoiser, recipe("full"), CPU)(*inputs).dtype == torch.float32
    assert predictor(backbone, denoiser, recipe("full", "bf16"), CPU)(*inputs).dtype == torch.bfloat16


def test_a_part_that_was_not_loaded_is_named_when_called() -> None:
    with pytest.raises(AssertionError, match="the reference was not loaded"):
        never("the reference")(torch.zeros(1), torch.zeros(1), {})
