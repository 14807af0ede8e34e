"""Optimiser settings of a recipe, one frozen params class for each kind, and the divergence guard. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from alignment.catalogues.record import Record


class OptimiserParams(Record):
    """Settings of every optimiser: learning rate, warm-up, schedule and weight decay."""

    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay: each step shrinks a weight by this times the learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or a half cosine down to zero at the last step."""


class AdamW(OptimiserParams):
    """AdamW with linear warm-up. The default for a recipe that names no kind."""

    kind: Annotated[Literal["adamw"], Field(exclude=True)] = "adamw"
    """Excluded from the JSON, so digests of recipes from before Adafactor existed stay unchanged."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8


class Adafactor(OptimiserParams):
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) without momentum, at the stated learning rate.

    The learning rate is not scaled by the weights and not relative to the step: transformers' `scale_parameter` and
    `relative_step` are False, as in the SDXL training of Diffusion-DPO's authors.
    """

    kind: Literal["adafactor"] = "adafactor"
    epsilon: Annotated[float, Field(gt=0)] = 1e-30
    """Added to squared gradients."""
    clip_threshold: Annotated[float, Field(gt=0)] = 1.0
    """Largest root mean square of a weight's update, before the learning rate."""
    decay_rate: Annotated[float, Field(lt=0)] = -0.8
    """Exponent of the second moments' decay factor, 1 - step ** decay_rate."""


class AdamW8bit(OptimiserParams):
    """AdamW whose two moments take a byte each (Dettmers et al. 2021, arXiv:2110.02861), by torchao.

    Blocks of 256 moments share a scale. Weights of fewer than 4096 values, or of a number that 256 does not divide,
    keep moments in float32, such as norms, biases and small adapters. It needs the extra `adamw8bit`.
    """

    kind: Literal["adamw8bit"] = "adamw8bit"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8


BLOCK_8BIT = 256
"""Moments that share a scale."""
LEAST_8BIT = 4096
"""Values of a weight from which its moments take a byte."""


def has_8bit_moments(num_values: int) -> bool:
    """Return True if AdamW8bit stores the moments of a weight of so many values in a byte each."""
    return num_values >= LEAST_8BIT and num_values % BLOCK_8BIT == 0


def kind(optimiser: Any) -> str:
    """Return the union's tag. Plain data without one is AdamW."""
    named = optimiser.get("kind", "adamw") if isinstance(optimiser, dict) else getattr(optimiser, "kind", "")
    return str(named)


Optimiser = Annotated[
    Annotated[AdamW, Tag("adamw")] | Annotated[Adafactor, Tag("adafactor")] | Annotated[AdamW8bit, Tag("adamw8bit")],
    Discriminator(kind),
]


class DivergenceGuard(Record):
    """Stop a run whose loss is not finite, or stays above a multiple of its running median."""

    spike_factor: Annotated[float, Field(gt=1)] = 20.0
    """Allowed ratio of a step's loss to the median of the window."""
    window_steps: Annotated[int, Field(gt=0)] = 50
    patience_steps: Annotated[int, Field(gt=0)] = 5
    """Consecutive steps above the limit that count as divergence."""
