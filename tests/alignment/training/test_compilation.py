"""Regional compilation: the same predictions up to rounding, with and without adapters."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo import config

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.catalogues.backbones import StableDiffusion
from alignment.contracts.training import Lora
from alignment.training.compilation import PROGRAMS_PER_BLOCK, compile_blocks

pytestmark = [
    pytest.mark.timeout(600),  # compilation takes a minute on a slow core
    pytest.mark.filterwarnings("ignore"),  # torch's compiler warns about its own code
]


def test_compiled_blocks_predict_the_same(
    tiny_sd_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    backbone = StableDiffusionBackbone(tiny_sd_dir, StableDiffusion(resolution=64))
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, Lora(rank=2, alpha=2), seed=0)
    with torch.no_grad():
        for name, weight in denoiser.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.02)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 800]), backbone.encode_captions(["red", "blue"])
    results = {}
    for compiled in (False, True):
        if compiled:
            with caplog.at_level(logging.INFO):
                compile_blocks(denoiser)
        for enabled in (True, False):
            backbone.set_adapter(denoiser, enabled=enabled)
            results[compiled, enabled] = backbone.predict(denoiser, *inputs)
    for enabled in (True, False):
        # Float32 sums in another order: a few hundred roundings of 6e-8, relative to values of about 1.
        torch.testing.assert_close(results[True, enabled], results[False, enabled], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(results[True, True], results[True, False], atol=1e-3)
    assert "blocks (BasicTransformerBlock): the first steps take minutes" in caplog.text
    assert any(tmp_path.iterdir()), "the programs are kept in the cache"


class Block(nn.Module):
    """A repeated block of a stated width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden)


class Blocks(nn.Module):
    """A denoiser whose blocks need more programs than torch keeps by default."""

    _repeated_blocks = ("Block",)

    def __init__(self, widths: range) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for width in widths])

    def forward(self) -> None:
        for block in self.blocks:
            block(torch.ones(2, block.linear.in_features))


def test_no_block_is_left_uncompiled_for_the_number_of_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    with config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        denoiser = Blocks(range(2, 7))
        compile_blocks(denoiser)
        assert config.recompile_limit == PROGRAMS_PER_BLOCK
        denoiser()
    torch.compiler.reset()
