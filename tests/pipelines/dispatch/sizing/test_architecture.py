"""Kept bytes and work by formula against torch's own count on the meta device, for published and tiny denoisers."""

from typing import Any

import pytest

from alignment.backbones.meta_denoiser import PassInput, _training_pass, meta_denoiser
from alignment.catalogues.published import published_bases
from alignment.contracts.training import FullFineTune, Lora
from pipelines.dispatch.sizing.architecture import Precision, kept_bytes, repeated_share, units_of

pytestmark = pytest.mark.timeout(300)

SIDES = {"sd15": 64, "sd21": 64, "sdxl": 128, "sd35_medium": 128, "flux1_dev": 128}
TEXT = {"stable_diffusion": 77, "sdxl": 77, "sd3": 333, "flux": 512}
TFLOPS = {"sd15": 0.80, "sdxl": 6.76, "sd35_medium": 11.2, "flux1_dev": 74.4}
"""Forward pass of one image; docs/scale.md."""
TUNINGS: list[Lora | FullFineTune] = [Lora(rank=8), FullFineTune()]
TOLERANCE = 0.01
"""The formula leaves out the timestep's embedding, the first convolution and the adapters' own small tensors."""


def counted(family: str, config: dict[str, Any], side: int, tuning: Lora | FullFineTune, precision: Precision) -> Any:
    size = PassInput(latent_side=side, text_tokens=TEXT[family])
    return _training_pass(meta_denoiser(family, config), family, tuning, size=size, precision=precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: tuning.kind)
@pytest.mark.parametrize("name", SIDES)
def test_kept_bytes_are_those_that_autograd_keeps(name: str, tuning: Lora | FullFineTune, precision: Precision) -> None:
    base, side = published_bases()[name], SIDES[name]
    for latent in (side, side // 2):
        own = kept_bytes(units_of(base.family, base.config, latent), tuning.kind, precision)
        exact = counted(base.family, base.config, latent, tuning, precision).activations
        assert own == pytest.approx(exact, rel=TOLERANCE)


@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: tuning.kind)
def test_kept_bytes_of_another_unet(tuning: Lora | FullFineTune) -> None:
    config = {
        "block_out_channels": [64, 96],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "in_channels": 4,
        "out_channels": 4,
    }
    own = kept_bytes(units_of("stable_diffusion", config, 32), tuning.kind, "fp32")
    assert own == pytest.approx(counted("stable_diffusion", config, 32, tuning, "fp32").activations, rel=0.1)


@pytest.mark.parametrize("name", TFLOPS)
def test_work_is_that_of_every_matrix_and_attention(name: str) -> None:
    base, side = published_bases()[name], SIDES[name]
    own = sum(unit.flops for unit in units_of(base.family, base.config, side))
    exact = counted(base.family, base.config, side, FullFineTune(), "fp32").flops
    assert own == pytest.approx(exact, rel=0.02)
    assert own / 1e12 == pytest.approx(TFLOPS[name], rel=0.02)


def test_checkpointing_keeps_less_the_more_it_repeats() -> None:
    base = published_bases()["flux1_dev"]
    units = units_of(base.family, base.config, 128)
    none, half, all_ = (kept_bytes(units, "lora", "bf16", checkpoint_every=every) for every in (0, 2, 1))
    assert all_ < 0.1 * none < half < 0.6 * none
    assert [repeated_share(every) for every in (0, 1, 4)] == [0, 1, 0.25]
