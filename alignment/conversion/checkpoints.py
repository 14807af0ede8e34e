"""Checkpoint files to named tensors, without running anything that a file may hold."""

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
"""A prefix that data-parallel training leaves."""

Weights = dict[str, Tensor]


def read_checkpoint(path: Path) -> Weights:
    """The tensors of a .safetensors file, or of a pickle read with weights_only=True, by name.

    A dictionary around them (`state_dict`, `model`) is opened, other entries beside them are left. ValueError for any
    other file: one that holds more than tensors might run code, so it is refused unread.
    """
    if not path.is_file():
        raise ValueError(f"The weights file {path} does not exist.")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix not in PICKLED:
        raise ValueError(f"{path} is no weights file. Give one of {', '.join(('.safetensors', *PICKLED))}.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes are: unpickling junk raises KeyError, IndexError and more
        raise ValueError(
            f"{path} was refused: it is damaged, or holds more than tensors, which might run code"
            f" ({type(error).__name__}). Give the published file, or convert it to safetensors where that is safe."
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
        raise ValueError(
            f"{path} holds no named tensors. Give the weights file of the judge, not another of its files."
        )
    if all(name.startswith(PARALLEL) for name in found):
        found = {name.removeprefix(PARALLEL): value for name, value in found.items()}
    return found


def require(weights: Mapping[str, Tensor], names: tuple[str, ...], what: str) -> None:
    """ValueError unless the weights hold every name: a file of another model is told at once."""
    missing = [name for name in names if name not in weights]
    if missing:
        shown = ", ".join(sorted(weights)[:3])
        raise ValueError(f"This is not {what}: it has no {', '.join(missing)} (but {shown}, ...). Give that file.")


def float32(weights: Mapping[str, Tensor]) -> Weights:
    """Every tensor in float32, in which judges score; published half precision widens without loss."""
    return {name: tensor.float().contiguous() for name, tensor in weights.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
