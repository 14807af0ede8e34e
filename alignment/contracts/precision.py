"""Precision of products and of weights that are not trained, as a recipe states them. Torch-free."""

import math
from typing import Literal

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
FrozenWeights = Literal["fp32", "bf16", "fp16", "int8", "nf4"]
HALVES = ("bf16", "fp16")
"""Precisions of two bytes."""
QUANTISED = ("int8", "nf4")
"""Storage of linear layers from which each product restores the weights."""
MOST_NOISE = 0.2
"""Largest noise in the margin of a shipped recipe, in logits: at a margin of 0 it changes a pair's weight by 10 %."""
_NOISE_PER_BETA: dict[Precision, float] = {"fp32": 0.0, "tf32": 3.5e-5, "bf16": 5e-4, "fp16": 7.1e-5}
# Root mean squares that benchmarks/precision_noise.py measured at the widths of SD1.5 and SDXL; FLUX has less.
_MEASURED_VALUES = 4 * 32 * 32
"""Values of the latents there."""


def margin_noise(precision: Precision, beta: float, latent_values: int) -> float:
    """Return the noise in Diffusion-DPO's margin that rounding makes, in logits, root mean square.

    `latent_values` is channels x height x width: an error is a mean over them, so its noise falls with their root.
    """
    return _NOISE_PER_BETA[precision] * beta * math.sqrt(_MEASURED_VALUES / latent_values)


def noise_warning(precision: Precision, beta: float, latent_values: int) -> str | None:
    """Return a warning when the noise in the margin is above the bound of shipped recipes; None otherwise."""
    noise = margin_noise(precision, beta, latent_values)
    if noise <= MOST_NOISE:
        return None
    return (
        f"precision = {precision!r} adds noise of about {noise:.2g} to the margin at beta {beta:g} (bound:"
        f" {MOST_NOISE}). Loss, margin and implicit accuracy show it. Use precision 'fp16', or a lower beta."
    )


def precision_problem(precision: Precision, frozen_weights: FrozenWeights, *, full: bool, online: bool) -> str | None:
    """Return the reason for which these fields of a recipe do not fit together, with what to do; None if they fit."""
    half = precision in HALVES
    if precision == "fp16" and online:
        return "precision = 'fp16' scales the loss, which online objectives do not support; set precision = 'bf16'"
    if frozen_weights == "fp32":
        return None
    if frozen_weights in QUANTISED:
        if full:
            return (
                f"frozen_weights = {frozen_weights!r} needs tuning.kind = 'lora': the reference of a full fine-tune"
                " would be another model than the policy's start. Use adapters, or frozen_weights = 'fp32'"
            )
        if not half:
            return f"frozen_weights = {frozen_weights!r} needs precision 'bf16' or 'fp16', not {precision!r}"
    elif frozen_weights != precision:
        return f"frozen_weights = {frozen_weights!r} needs precision = {frozen_weights!r}, not {precision!r}"
    return None
