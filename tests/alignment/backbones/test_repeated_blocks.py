"""Every family has repeated blocks, and they hold its attention."""

from typing import Any

import pytest
from torch import nn

from alignment.backbones.repeated_blocks import repeated_blocks
from alignment.catalogues.backbones import SDXL, Flux, StableDiffusion, StableDiffusion3
from alignment.catalogues.lookup import resolve

# The first test of a session includes the time to import the model libraries and to train the tiny models.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    ("family", "params", "kinds"),
    [
        ("sd", StableDiffusion(resolution=64), {"BasicTransformerBlock"}),
        ("sdxl", SDXL(resolution=64), {"BasicTransformerBlock"}),
        ("sd3", StableDiffusion3(resolution=64), {"JointTransformerBlock"}),
        ("flux", Flux(resolution=64), {"FluxTransformerBlock", "FluxSingleTransformerBlock"}),
    ],
)
def test_blocks_hold_every_attention(family: str, params: Any, kinds: set[str], request: Any) -> None:
    denoiser = resolve(params.implementation)(request.getfixturevalue(f"tiny_{family}_dir"), params).load_denoiser()
    blocks = repeated_blocks(denoiser)
    assert {type(block).__name__ for block in blocks} == kinds
    inside = {id(module) for block in blocks for module in block.modules()}
    attention = [module for name, module in denoiser.named_modules() if name.endswith(("to_q", "to_k", "to_v"))]
    assert attention
    assert all(id(module) in inside for module in attention)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear declares no repeated blocks"):
        repeated_blocks(nn.Linear(2, 2))
