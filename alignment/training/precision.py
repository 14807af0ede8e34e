"""Precision of passes, and the scale of the loss that keeps fp16 gradients in range."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignment.contracts.precision import Precision
from alignment.training.sharding import whole

logger = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
START_SCALE = 2.0**16
GROW_AFTER = 1000
"""Steps without an overflow after which the scale doubles."""
MOST_SCALE = 2.0**24


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: autocast to a half precision, or nothing."""
    return torch.autocast(device.type, dtype=DTYPES.get(precision, torch.bfloat16), enabled=precision in DTYPES)


def set_float32_products(precision: Precision) -> None:
    """Let products of float32 tensors use TF32 in this process if, and only if, the recipe asks for it.

    torch's default is TF32 in convolutions and float32 in matrix products; a recipe with fp32 gets float32 in both.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def run_everywhere_in(precision: Precision, denoiser: nn.Module, device: torch.device) -> None:
    """Run every forward pass of a denoiser under autocast, with a float32 result, in place.

    Half-precision weights accept no float32 input without it, and the sample grid's pipeline calls the denoiser itself.
    """
    denoiser.forward = autocast(precision, device)(denoiser.forward)  # type: ignore[method-assign]
    denoiser.register_forward_hook(lambda module, inputs, result: (result[0].float(), *result[1:]))


class LossScale:
    """Factor on the loss of fp16 passes: a power of two, so that it changes no gradient that fp16 can represent.

    A step whose gradient overflows is computed again with half the factor. No step is left out, unlike with torch's
    GradScaler, so a step remains a function of its number. `value` and `clean` restore the scale from a checkpoint.
    Other precisions have the factor 1.
    """

    def __init__(self, precision: Precision, value: float = START_SCALE, clean: int = 0) -> None:
        self.enabled = precision == "fp16"
        self.value = value if self.enabled else 1.0
        self.clean = clean
        """Steps since the scale last changed."""

    @torch.no_grad()
    def settle(self, weights: Sequence[nn.Parameter]) -> bool:
        """Divide the gradients by the scale; return False if one overflowed and the step must be computed again.

        Every process decides alike, because gradients are averaged before. At scale 1 gradients that are not finite
        stay, for the guard against divergence.
        """
        if not self.enabled:
            return True
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.value > 1 and not _finite(gradients):
            self.value, self.clean = self.value / 2, 0
            logger.info("a gradient overflowed fp16; the step is repeated with a loss scale of %g", self.value)
            return False
        torch._foreach_mul_(gradients, 1 / self.value)
        self.clean += 1
        if self.clean >= GROW_AFTER and self.value < MOST_SCALE:
            self.value, self.clean = self.value * 2, 0
        return True


def _finite(gradients: Sequence[Tensor]) -> bool:
    return bool(whole(torch.nn.utils.get_total_norm(gradients)).isfinite())
