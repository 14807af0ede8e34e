"""Weights, trained weights and optimiser states counted by hand, and shapes read from headers."""

import json
from pathlib import Path

import pytest
import torch

from alignment.catalogues.optimisers import Adafactor, AdamW, AdamW8bit
from alignment.catalogues.published import WeightGroup, published_bases
from alignment.contracts.training import FullFineTune, Lora
from pipelines.dispatch.sizing.weights import base_weights, num_weights, state_bytes, trained_weights

ROOT = Path(__file__).parents[4]
GROUPS = [
    WeightGroup(name="mid.attn.to_q.weight", shape=(8, 6)),
    WeightGroup(name="mid.attn.to_q.bias", shape=(8,)),
    WeightGroup(name="mid.*.to_out.0.weight", shape=(6, 8), count=3),
    WeightGroup(name="mid.conv.weight", shape=(4, 3, 3, 3)),
    WeightGroup(name="mid.not_to_q.weight", shape=(5, 5)),
]


def write_header(path: Path, tensors: dict[str, list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_a_group_counts_each_of_its_weights() -> None:
    assert num_weights(GROUPS) == 48 + 8 + 3 * 48 + 108 + 25
    assert trained_weights(FullFineTune(), GROUPS) == GROUPS


def test_adapters_have_two_factors_for_each_matrix_of_a_target() -> None:
    trained = trained_weights(Lora(rank=2), GROUPS)
    # to_q and to_out.0; a name that merely ends in the same letters is no target.
    assert num_weights(trained) == 2 * (6 + 8) + 3 * 2 * (8 + 6)


def test_an_adapter_of_a_convolution_has_the_kernel_in_its_first_factor() -> None:
    trained = trained_weights(Lora(rank=3, target_modules=("conv",)), GROUPS)
    assert [group.shape for group in trained] == [(3, 3, 3, 3), (4, 3, 1, 1)]


def test_the_adapters_of_the_shapes_base_are_counted_as_peft_makes_them() -> None:
    from alignment.backbones.stable_diffusion import StableDiffusionBackbone
    from alignment.catalogues.backbones import StableDiffusion

    base_dir, tuning = ROOT / "examples/shapes/base", Lora(rank=4)
    backbone = StableDiffusionBackbone(base_dir, StableDiffusion(resolution=64), torch.device("cpu"))
    denoiser = backbone.load_denoiser()
    groups = base_weights(base_dir)
    assert sum(weight.numel() for weight in denoiser.parameters()) == num_weights(groups)
    backbone.attach(denoiser, tuning, seed=0)
    made = sum(weight.numel() for weight in denoiser.parameters() if weight.requires_grad)
    assert made == num_weights(trained_weights(tuning, groups)) > 0


@pytest.mark.parametrize("shape", [(5,), (7, 3), (4, 3, 3, 2), (64, 128), (4096,), (16, 257)])
@pytest.mark.parametrize(
    "optimiser", [AdamW(learning_rate=1e-3), Adafactor(learning_rate=1e-3), AdamW8bit(learning_rate=1e-3)]
)
def test_states_are_counted_as_the_optimiser_makes_them(
    shape: tuple[int, ...], optimiser: AdamW | Adafactor | AdamW8bit
) -> None:
    from alignment.training.optimisation import build_optimiser

    weight = torch.nn.Parameter(torch.ones(shape))
    weight.grad = torch.ones(shape)
    made = build_optimiser([weight], optimiser)
    made.step()
    states = [value for value in made.state[weight].values() if isinstance(value, torch.Tensor) and value.ndim]
    kept = [getattr(state, part) for state in states for part in ("codes", "scale", "qmap") if hasattr(state, part)]
    kept += [state for state in states if not hasattr(state, "codes")]
    groups = [WeightGroup(name="a.weight", shape=shape, count=2)]
    assert state_bytes(optimiser, groups) == 2 * sum(value.nbytes for value in kept)


def test_adafactor_of_sdxl_keeps_far_fewer_numbers_than_adamw() -> None:
    weights = published_bases()["sdxl"].weights
    assert state_bytes(AdamW(learning_rate=1e-3), weights) == 8 * num_weights(weights)
    assert state_bytes(Adafactor(learning_rate=1e-3), weights) < 0.8 * num_weights(weights)
    assert state_bytes(AdamW8bit(learning_rate=1e-3), weights) < 2.1 * num_weights(weights)


def test_shapes_come_from_the_header_and_other_variants_do_not_count_twice(tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    write_header(folder / "diffusion_pytorch_model.safetensors", {"a.weight": [2, 3]})
    write_header(folder / "diffusion_pytorch_model.fp16.safetensors", {"b.weight": [2, 3]})
    assert base_weights(tmp_path) == [WeightGroup(name="a.weight", shape=(2, 3))]


def test_weights_in_parts_are_found_by_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    for part, name in ((1, "a"), (2, "b")):
        write_header(folder / f"part-{part}.safetensors", {name: [part]})
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert base_weights(tmp_path) == [WeightGroup(name="a", shape=(1,)), WeightGroup(name="b", shape=(2,))]


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\x01\0\0\0\0\0\0\0{"])
def test_a_file_in_another_format_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is not a safetensors file"):
        base_weights(tmp_path)


def test_a_base_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unet contains no safetensors weights"):
        base_weights(tmp_path)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    write_header(tmp_path / "outside.safetensors", {"a": [1]})
    (tmp_path / "base" / "unet").mkdir(parents=True)
    index = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../outside.safetensors"}}))
    with pytest.raises(ValueError, match="does not stay inside"):
        base_weights(tmp_path / "base")
