"""The parts of a denoiser whose rounding reaches every prediction: the residual stream and the last layers.

Under autocast the result of each product is rounded, and a sum of two half-precision tensors is one too. A float32
summand makes the sum float32, so it suffices that what starts or replaces the stream is float32.
"""

from typing import Any

import torch
from torch import Tensor, nn

STREAM = (
    *("conv_in", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "proj_in"),
    *("x_embedder", "context_embedder", "pos_embed"),
)
"""Ends of the names of modules that start or replace the stream, in diffusers' UNets and transformers."""
LAST = ("conv_norm_out", "conv_out", "norm_out", "proj_out")
"""Names of the last layers. FLUX calls a layer of its single blocks proj_out too, by a longer name."""


def keep_float32(denoiser: nn.Module) -> None:
    """Let the stream and the last layers be float32 under autocast, in place. Without autocast nothing changes."""
    for name, module in denoiser.named_modules():
        if name in LAST:
            _run_in_float32(module)
        elif name.endswith(STREAM):
            module.register_forward_hook(_to_float32)


def _run_in_float32(module: nn.Module) -> None:
    inner = module.forward

    def forward(*inputs: Tensor) -> Any:
        with torch.autocast(inputs[0].device.type, enabled=False):
            return inner(*(value.float() for value in inputs))

    module.forward = forward  # type: ignore[method-assign]


def _to_float32(module: nn.Module, inputs: tuple[Any, ...], result: Any) -> Any:
    return result.float() if isinstance(result, Tensor) else result
