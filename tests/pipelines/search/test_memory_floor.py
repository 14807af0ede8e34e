"""The lower bound of a run's memory computed by hand, and shapes read from headers."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.config import load_recipe
from alignment.contracts.training import Lora
from pipelines.search.memory_floor import _lora_parameters, _read_shapes, denoiser_shapes, memory_floor

ROOT = Path(__file__).parents[3]
SHAPES = {
    "mid.attn.to_q.weight": (8, 6),
    "mid.attn.to_q.bias": (8,),
    "mid.attn.to_out.0.weight": (6, 8),
    "mid.conv.weight": (4, 3, 3, 3),
    "mid.not_to_q.weight": (5, 5),
}
NUM_WEIGHTS = 48 + 8 + 48 + 108 + 25


def recipe(name: str, *overrides: str) -> Any:
    return load_recipe(name, overrides)


def write_header(path: Path, tensors: dict[str, list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_a_full_fine_tune_with_reference_has_five_copies() -> None:
    floor = memory_floor(recipe("diffusion_dpo_shapes"), SHAPES)
    assert (floor.weights, floor.reference, floor.gradients, floor.optimiser) == (
        4 * NUM_WEIGHTS,
        4 * NUM_WEIGHTS,
        4 * NUM_WEIGHTS,
        8 * NUM_WEIGHTS,
    )
    assert floor.gib == pytest.approx(20 * NUM_WEIGHTS / 2**30)


def test_without_reference_there_is_no_copy() -> None:
    assert memory_floor(recipe("mapo_shapes"), SHAPES).reference == 0


def test_adapters_train_their_own_weights_and_need_no_copy() -> None:
    floor = memory_floor(recipe("diffusion_dpo_shapes", "tuning={kind='lora', rank=2, alpha=2}"), SHAPES)
    adapter = 2 * (6 + 8) + 2 * (8 + 6)  # to_q and to_out.0; a name that merely ends in the same letters is no target
    assert (floor.weights, floor.reference) == (4 * (NUM_WEIGHTS + adapter), 0)
    assert (floor.gradients, floor.optimiser) == (4 * adapter, 8 * adapter)


def test_an_adapter_of_a_convolution_has_the_kernel_in_its_first_factor() -> None:
    assert _lora_parameters(Lora(rank=3, target_modules=("conv",)), SHAPES) == 3 * (3 * 3 * 3 + 4)


def test_the_adapters_of_the_shapes_base_are_counted_as_peft_makes_them() -> None:
    import torch

    from alignment.backbones.stable_diffusion import StableDiffusionBackbone
    from alignment.catalogues.backbones import StableDiffusion

    base_dir, tuning = ROOT / "examples/shapes/base", Lora(rank=4)
    backbone = StableDiffusionBackbone(base_dir, StableDiffusion(resolution=64), torch.device("cpu"))
    denoiser = backbone.load_denoiser()
    shapes = denoiser_shapes(base_dir)
    assert sum(weight.numel() for weight in denoiser.parameters()) == sum(
        torch.Size(shape).numel() for shape in shapes.values()
    )
    backbone.attach(denoiser, tuning, seed=0)
    made = sum(weight.numel() for weight in denoiser.parameters() if weight.requires_grad)
    assert made == _lora_parameters(tuning, shapes) > 0


def test_shapes_come_from_the_header_and_other_variants_do_not_count_twice(tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    write_header(folder / "diffusion_pytorch_model.safetensors", {"a.weight": [2, 3]})
    write_header(folder / "diffusion_pytorch_model.fp16.safetensors", {"b.weight": [2, 3]})
    assert denoiser_shapes(tmp_path) == {"a.weight": (2, 3)}


def test_weights_in_parts_are_found_by_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    for part, name in ((1, "a"), (2, "b")):
        write_header(folder / f"part-{part}.safetensors", {name: [part]})
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert denoiser_shapes(tmp_path) == {"a": (1,), "b": (2,)}


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\x01\0\0\0\0\0\0\0{"])
def test_a_file_in_another_format_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is not a safetensors file"):
        _read_shapes(path)


def test_a_base_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unet contains no safetensors weights"):
        denoiser_shapes(tmp_path)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    write_header(tmp_path / "outside.safetensors", {"a": [1]})
    (tmp_path / "base" / "unet").mkdir(parents=True)
    index = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../outside.safetensors"}}))
    with pytest.raises(ValueError, match="does not stay inside"):
        denoiser_shapes(tmp_path / "base")
