"""Read checkpoint files as named tensors, without running code from the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model")
PARALLEL = "module."
"""Prefix that data-parallel training adds to tensor names."""

Weights = dict[str, Tensor]


def read_checkpoint(path: Path) -> Weights:
    """Read the tensors of a .safetensors file, or of a pickle with weights_only=True, by name.

    If the tensors are inside a dictionary entry (`state_dict`, `model`), that entry is used and others are ignored.
    ValueError for any other file: a file that holds more than tensors might run code, so it is refused unread.
    """
    if not path.is_file():
        raise ValueError(f"The weights file {path} does not exist.")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix not in PICKLED:
        raise ValueError(f"{path} is not a weights file. Allowed: {', '.join(('.safetensors', *PICKLED))}.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged bytes raises KeyError, IndexError and others
        raise ValueError(
            f"{path} was refused: it is damaged, or holds more than tensors, which might run code"
            f" ({type(error).__name__}). Use the published file, or convert it to safetensors where that is safe."
        ) from error
    return _tensors(content, path)


def _safetensors(path: Path) -> Weights:
    try:
        weights: Weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file: {_first_line(error)}. Download it again.") from error
    return weights


def _tensors(content: Any, path: Path) -> Weights:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    found = (
        {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not found:
        raise ValueError(f"{path} holds no named tensors. Use the judge's weights file, not another of its files.")
    if all(name.startswith(PARALLEL) for name in found):
        found = {name.removeprefix(PARALLEL): value for name, value in found.items()}
    return found


def require(weights: Mapping[str, Tensor], names: tuple[str, ...], what: str) -> None:
    """Check that the weights hold every name. ValueError otherwise, which catches a file of another model early."""
    missing = [name for name in names if name not in weights]
    if missing:
        shown = ", ".join(sorted(weights)[:3])
        raise ValueError(
            f"This is not {what}: it lacks {', '.join(missing)} (it has {shown}, ...). Use the file of {what}."
        )


def float32(weights: Mapping[str, Tensor]) -> Weights:
    """Convert every tensor to float32, the precision that judges score in. Half precision converts without loss."""
    return {name: tensor.float().contiguous() for name, tensor in weights.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
