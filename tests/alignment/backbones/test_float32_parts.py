"""Where the residual stream is float32 in each family, and that nothing else changes."""

from typing import Any

import pytest
import torch
from torch import nn

from alignment.backbones.float32_parts import keep_float32
from alignment.backbones.interface import Framing
from alignment.catalogues.backbones import SDXL, Flux, StableDiffusion, StableDiffusion3
from alignment.catalogues.lookup import resolve

# The first test of a session includes the time to import the model libraries and to train the tiny models.
pytestmark = pytest.mark.timeout(300)

FAMILIES = {
    "sd": StableDiffusion(resolution=64),
    "sdxl": SDXL(resolution=64),
    "sd3": StableDiffusion3(resolution=64),
    "flux": Flux(resolution=64),
}
FRAMING = Framing(64, 64, crop_top=0, crop_left=0, height=64, width=64)
BLOCKS = {
    "ResnetBlock2D",
    "BasicTransformerBlock",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
}


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Any:
    params = FAMILIES[request.param]
    return resolve(params.implementation)(request.getfixturevalue(f"tiny_{request.param}_dir"), params)


def prediction(backbone: Any, denoiser: nn.Module, half: torch.dtype | None) -> torch.Tensor:
    """Two latents, with float32 arithmetic if `half` is None."""
    generator = torch.Generator().manual_seed(0)
    noisy_BCHW = torch.randn(2, *backbone.latent_shape, generator=generator)
    framings: Any = backbone.image_conditioning([FRAMING] * 2)
    conditioning = {**backbone.encode_captions(["red", "blue"]), **framings}
    with torch.no_grad(), torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
        result: torch.Tensor = backbone.predict(denoiser, noisy_BCHW, torch.tensor([300.0, 300.0]), conditioning)
    return result


def stream_dtypes(denoiser: nn.Module) -> set[torch.dtype]:
    """Collect the dtypes of the tensors that blocks receive and return."""
    seen: set[torch.dtype] = set()

    def look(module: nn.Module, inputs: tuple[Any, ...], result: Any) -> None:
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, torch.Tensor):
                seen.add(value.dtype)

    for module in denoiser.modules():
        if type(module).__name__ in BLOCKS:
            module.register_forward_hook(look)
    return seen


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # FLUX's float32 norm of bf16: not fused
def test_the_stream_and_the_prediction_are_float32_under_autocast(backbone: Any) -> None:
    denoiser = backbone.load_denoiser()
    exact = prediction(backbone, denoiser, None)
    rounded = prediction(backbone, denoiser, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    keep_float32(denoiser)
    seen = stream_dtypes(denoiser)
    kept = prediction(backbone, denoiser, torch.bfloat16)
    assert kept.dtype == torch.float32
    assert seen == {torch.float32}
    assert (kept - exact).norm() < (rounded - exact).norm()


def test_without_autocast_nothing_changes(backbone: Any) -> None:
    denoiser = backbone.load_denoiser()
    before = prediction(backbone, denoiser, None)
    keep_float32(denoiser)
    assert torch.equal(prediction(backbone, denoiser, None), before)
