"""Denoisers of every family with frozen weights in two bytes or fewer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignment.backbones.frozen_weights import _weight_files
from alignment.backbones.interface import Framing
from alignment.backbones.quantised import QuantisedLinear
from alignment.catalogues.backbones import SDXL, Flux, StableDiffusion, StableDiffusion3
from alignment.catalogues.lookup import resolve
from alignment.contracts.precision import FrozenWeights
from alignment.contracts.training import Lora

# The first test of a session includes the time to import the model libraries and to train the tiny models.
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight"),  # FLUX's float32 norm: not fused
]

FAMILIES = {
    "sd": StableDiffusion(resolution=64),
    "sdxl": SDXL(resolution=64),
    "sd3": StableDiffusion3(resolution=64),
    "flux": Flux(resolution=64),
}
FRAMING = Framing(64, 64, crop_top=0, crop_left=0, height=64, width=64)
# Relative change of the prediction: the base's weights have 8 bits (bf16), or 4 of them nearest to a normal quantile.
MOST: dict[FrozenWeights, float] = {"bf16": 0.05, "fp16": 0.01, "int8": 0.05, "nf4": 0.5}


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Any:
    params = FAMILIES[request.param]
    return resolve(params.implementation)(request.getfixturevalue(f"tiny_{request.param}_dir"), params)


def predict(backbone: Any, denoiser: nn.Module, half: torch.dtype | None) -> Tensor:
    noisy_BCHW = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    framings = backbone.image_conditioning([FRAMING] * 2)
    conditioning = {**backbone.encode_captions(["red", "blue"]), **framings}
    with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
        result: Tensor = backbone.predict(denoiser, noisy_BCHW, torch.tensor([300.0, 300.0]), conditioning)
    return result.float()


@pytest.mark.parametrize("storage", MOST)
def test_predictions_are_near_and_adapters_learn(backbone: Any, storage: FrozenWeights) -> None:
    half = torch.float16 if storage == "fp16" else torch.bfloat16
    exact = predict(backbone, backbone.load_denoiser(), None)
    denoiser = backbone.load_denoiser(storage=storage)
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    alone = predict(backbone, denoiser, half)
    assert 0 < (alone - exact).norm() / exact.norm() < MOST[storage]
    backbone.attach(denoiser, Lora(rank=2, alpha=2), seed=0)
    trained = {name: weight for name, weight in denoiser.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert torch.equal(predict(backbone, denoiser, half), alone), "adapters start as the identity"
    predict(backbone, denoiser, half).square().mean().backward()
    second = [weight for name, weight in trained.items() if "lora_B" in name]
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in second)
    assert any(float(weight.grad.abs().max()) > 0 for weight in second if weight.grad is not None)
    with torch.no_grad():
        for weight in second:
            weight.add_(0.1)
    assert not torch.equal(predict(backbone, denoiser, half), alone)
    backbone.set_adapter(denoiser, enabled=False)
    assert torch.equal(predict(backbone, denoiser, half), alone)


@pytest.mark.parametrize("storage", ["bf16", "int8", "nf4"])
def test_matrices_are_small_and_the_rest_is_as_in_the_file(backbone: Any, storage: FrozenWeights) -> None:
    exact = dict(backbone.load_denoiser().named_parameters())
    denoiser = backbone.load_denoiser(storage=storage)
    for name, weight in denoiser.named_parameters():
        if exact[name].ndim < 2:
            assert torch.equal(weight, exact[name]), name
        else:
            assert weight.element_size() <= 2, name
    layers = [module for module in denoiser.modules() if isinstance(module, QuantisedLinear)]
    assert bool(layers) == (storage != "bf16")


def test_the_index_of_a_sharded_base_names_its_files(tmp_path: Path) -> None:
    assert _weight_files(tmp_path) == [tmp_path / "diffusion_pytorch_model.safetensors"]
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"a": "1", "b": "2"}}')
    for name in ("1", "2"):
        (tmp_path / name).touch()
    assert [path.name for path in _weight_files(tmp_path)] == ["1", "2"]
