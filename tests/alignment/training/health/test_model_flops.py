"""Operations of a pair, counted on shapes; a card is known by its name."""

from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.data.features import CachedFeatures
from alignment.training.batches import Visit, assemble
from alignment.training.health.model_flops import flops_per_pair, peak_rate

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla K80", None),
    ],
)
def test_a_card_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, rate: float | None) -> None:
    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "get_device_name", lambda device: name)
    assert peak_rate(torch.device("cuda")) == rate
    assert peak_rate(torch.device("cpu")) is None


def test_a_pair_costs_its_passes_and_nothing_runs(bench: Any) -> None:
    lora, full = bench.train_spec(), bench.train_spec(tuning={"kind": "full"})
    backbone = StableDiffusionBackbone(bench.inputs / lora.base_digest, lora.recipe.backbone)
    features = CachedFeatures(bench.inputs / lora.cache_digest)
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, lora.recipe.tuning, 0)

    def cost(spec: Any, pairs: int, passes: int) -> float:
        batch = assemble([Visit(pair, 0) for pair in range(pairs)], features, spec.recipe, backbone.schedule)
        return flops_per_pair(backbone, denoiser, spec.recipe, batch, passes=passes)

    forward = cost(lora, 1, 0) / 2
    first = 2 * 2 * denoiser.config.block_out_channels[0] * 4 * 9 * 64  # conv_in on two images: 3 x 3, 4 channels
    assert forward > 10 * first
    assert cost(lora, 3, 0) == pytest.approx(2 * forward), "a figure for one pair"
    assert cost(lora, 1, 1) == pytest.approx(3 * forward)
    assert cost(full, 1, 1) == pytest.approx(4 * forward)
