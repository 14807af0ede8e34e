"""The number format that a pipeline computes in while it draws."""

from typing import Any

import torch
from torch import Tensor, nn

from alignment.backbones.interface import DTYPES
from alignment.contracts.values import NumberFormat

DENOISERS = ("unet", "transformer")


def set_precision(pipeline: Any, precision: NumberFormat) -> None:
    """Let a pipeline's text encoders and denoiser compute in a number format, in place; call it once.

    Latents, the steps of the scheduler and the VAE stay in float32: the VAE is a small part of the time, and 8-bit
    pixels show its rounding in bf16. It decodes one image at a time. `fp32` changes nothing.
    """
    if precision == "fp32":
        return
    dtype = DTYPES[precision]
    for name, module in pipeline.components.items():
        if isinstance(module, nn.Module) and name.startswith("text_encoder"):
            module.to(dtype)
        elif isinstance(module, nn.Module) and name in DENOISERS:
            # Not diffusers' own `to`, which warns of parts to keep in float32 even when there are none.
            _compute_in(nn.Module.to(module, dtype), dtype)
    if pipeline.vae is not None:
        pipeline.vae.enable_slicing()


def _compute_in(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Convert what the denoiser is given to its dtype, and its predictions to float32."""

    def convert_inputs(_: nn.Module, given: Any, named: Any) -> tuple[Any, Any]:
        return _cast(given, dtype), _cast(named, dtype)

    def convert_predictions(_: nn.Module, given: Any, predicted: Any) -> Any:
        del given
        return _cast(predicted, torch.float32)

    denoiser.register_forward_pre_hook(convert_inputs, with_kwargs=True)
    denoiser.register_forward_hook(convert_predictions)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Convert every tensor of floats, except timesteps: bf16 has steps of 4 near 1000."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: item if name == "timestep" else _cast(item, dtype) for name, item in value.items()}
    return tuple(_cast(item, dtype) for item in value) if isinstance(value, tuple) else value
