"""AdamW with moments of one byte, by torchao, and its moments as plain tensors for checkpoints."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignment.catalogues.optimisers import BLOCK_8BIT, AdamW8bit

LIBRARY = "torchao.optim"
CODES, SCALE = ".codes", ".scale"
"""Ends of the names of the two tensors that a moment has in a checkpoint."""
SIGNED = "exp_avg"
"""The moment that has a sign."""


def build_adamw8bit(weights: Iterable[nn.Parameter], params: AdamW8bit) -> torch.optim.Optimizer:
    """Build the optimiser; ValueError where torchao is not installed.

    On a GPU torchao compiles the update of each shape of weights, which takes a while in the first step. On a CPU the
    same operations run one by one, so that no compiler is needed.
    """
    trained = list(weights)
    optimiser: torch.optim.Optimizer = _library().AdamW8bit(
        trained,
        lr=params.learning_rate,
        betas=params.betas,
        eps=params.epsilon,
        weight_decay=params.weight_decay,
        block_size=BLOCK_8BIT,
    )
    if all(weight.device.type == "cpu" for weight in trained):
        optimiser.step = _eager(optimiser.step)  # type: ignore[method-assign, assignment]
    return optimiser


def _library() -> Any:
    """Import torchao, which takes a second that other optimisers do not pay."""
    try:
        return importlib.import_module(LIBRARY)
    except ModuleNotFoundError as error:
        raise ValueError(
            "The optimiser 'adamw8bit' needs torchao, which is not installed on this host. Run `pip install"
            " 'plumbline[adamw8bit]'` there, or use the optimiser adamw or adafactor."
        ) from error


def _eager(step: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.compiler.set_stance("force_eager"):
            return step()

    return run


def plain_tensors(key: str, value: Any) -> dict[str, Tensor]:
    """Return a state of any optimiser as tensors: a moment of one byte as its codes and its scales."""
    if hasattr(value, "codes"):
        return {f"{key}{CODES}": value.codes, f"{key}{SCALE}": value.scale}
    return {key: value if isinstance(value, Tensor) else torch.as_tensor(value)}


def moments_of(tensors: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Return the moments of one byte among the tensors of a weight, by their keys, on its device."""
    keys = [name.removesuffix(CODES) for name in tensors if name.endswith(CODES)]
    return {
        key: _moment(tensors[f"{key}{CODES}"], tensors[f"{key}{SCALE}"], weight, signed=key == SIGNED) for key in keys
    }


def _moment(codes: Tensor, scale: Tensor, weight: Tensor, *, signed: bool) -> Tensor:
    library: Any = importlib.import_module(f"{LIBRARY}.subclass_8bit")
    zeros = library.OptimState8bit.zeros
    moment: Any = zeros(weight.shape, signed, codes.numel() // scale.numel(), weight.device, dtype=weight.dtype)
    moment.codes.copy_(codes)
    moment.scale.copy_(scale)
    made: Tensor = moment
    return made
