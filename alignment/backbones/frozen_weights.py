"""Load a denoiser whose frozen weights take two bytes or fewer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from alignment.backbones.quantised import BLOCK, QuantisedLinear
from alignment.backbones.repeated_blocks import repeated_blocks
from alignment.contracts.precision import QUANTISED, FrozenWeights
from alignment.files.shards import indexed_files

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_frozen(model_class: Any, folder: Path, storage: FrozenWeights, device: torch.device) -> nn.Module:
    """Load a model of diffusers from `folder` to `device`, its matrices in the recipe's storage.

    Vectors (norms, biases) stay float32. int8 and nf4 store the linear layers of the repeated blocks, and bf16 the
    other matrices. The host's memory holds two bytes a weight meanwhile.
    """
    assert storage != "fp32"
    half = torch.float16 if storage == "fp16" else torch.bfloat16
    model: nn.Module = model_class.from_pretrained(folder, dtype=half, use_safetensors=True, local_files_only=True)
    _restore_float32(model, _weight_files(folder))
    if storage in QUANTISED:
        _quantise_blocks(model, storage, device)
    return model.to(device)


def _weight_files(folder: Path) -> Sequence[Path]:
    """Return the files of one set of weights: those that an index names, else the plain file."""
    for index in folder.glob(f"{WEIGHTS}.index.json"):
        return indexed_files(index)
    return [folder / WEIGHTS]


def _restore_float32(model: nn.Module, files: Sequence[Path]) -> None:
    """Read vectors again, with the digits that loading in half precision removed."""
    kept = {name: weight for name, weight in model.named_parameters() if weight.ndim < 2}
    for weight in kept.values():
        weight.data = weight.data.float()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in kept.keys() & set(file.keys()):
                kept[name].data.copy_(file.get_tensor(name))


def _quantise_blocks(model: nn.Module, storage: Any, device: torch.device) -> None:
    """Replace linear layers of the repeated blocks, one at a time on the device. Layers without whole blocks stay."""
    for block in repeated_blocks(model):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear) and layer.weight.numel() % BLOCK == 0:
                block.set_submodule(name, QuantisedLinear(layer.to(device), storage))
