"""What a recipe says about its optimiser, a frozen params class each, and about when a run diverged. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class OptimiserParams(BaseModel):
    """What every optimiser states: its rate, how the rate begins and ends, and how weights decay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled: a weight shrinks by this times the learning rate in every step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a half cosine down to zero at the last step."""


class AdamW(OptimiserParams):
    """AdamW with linear warm-up; what a recipe means that names no kind."""

    kind: Annotated[Literal["adamw"], Field(exclude=True)] = "adamw"
    """Not written: digests of recipes are as they were before there was another kind."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8


class Adafactor(OptimiserParams):
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) without momentum, at the stated learning rate.

    Rates are not scaled by the weights and not relative to the step: transformers' `scale_parameter` and
    `relative_step` are False, as Diffusion-DPO's authors train SDXL.
    """

    kind: Literal["adafactor"] = "adafactor"
    epsilon: Annotated[float, Field(gt=0)] = 1e-30
    """Added to squared gradients."""
    clip_threshold: Annotated[float, Field(gt=0)] = 1.0
    """Largest root mean square of a weight's update, before the learning rate."""
    decay_rate: Annotated[float, Field(lt=0)] = -0.8
    """Second moments forget at 1 - step ** decay_rate."""


def kind(optimiser: Any) -> str:
    """The union's tag; plain data without one is AdamW."""
    named = optimiser.get("kind", "adamw") if isinstance(optimiser, dict) else getattr(optimiser, "kind", "")
    return str(named)


Optimiser = Annotated[
    Annotated[AdamW, Tag("adamw")] | Annotated[Adafactor, Tag("adafactor")],
    Discriminator(kind),
]


class DivergenceGuard(BaseModel):
    """Stops a run whose loss is not finite, or stays above a multiple of its own running median."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spike_factor: Annotated[float, Field(gt=1)] = 20.0
    """Allowed ratio of a step's loss to the median of the window."""
    window_steps: Annotated[int, Field(gt=0)] = 50
    patience_steps: Annotated[int, Field(gt=0)] = 5
    """Consecutive steps above the limit that count as divergence."""
