"""Precision of products and of weights that are not trained, as a recipe states them. Torch-free."""

from typing import Literal

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
FrozenWeights = Literal["fp32", "bf16", "fp16", "int8", "nf4"]
HALVES = ("bf16", "fp16")
"""Precisions of two bytes."""
QUANTISED = ("int8", "nf4")
"""Storage of linear layers from which each product restores the weights."""
MOST_NOISE = 0.1
"""Largest noise in the margin that a shipped recipe may have, in logits: a change of 5 % in the weight of a pair."""
MARGIN_NOISE = {"fp32": 0.0, "tf32": 0.0, "bf16": 0.0, "fp16": 0.0}


def precision_problem(
    precision: Precision, frozen_weights: FrozenWeights, *, float32_stream: bool, full: bool, online: bool
) -> str | None:
    """Return the reason for which these fields of a recipe do not fit together, with what to do; None if they fit."""
    half = precision in HALVES
    if precision == "fp16" and online:
        return "precision = 'fp16' scales the loss, which online objectives do not support; set precision = 'bf16'"
    if float32_stream and not half:
        return f"float32_stream is for the precisions bf16 and fp16, not {precision!r}; remove it"
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
