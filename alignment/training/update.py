"""Interface between the loop and one optimiser step: gradients on the weights, and sums of the monitors."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from alignment.backbones.interface import Backbone
from alignment.contracts.jobs import Placement
from alignment.contracts.training import Recipe
from alignment.training.health.run_health import RunHealth
from alignment.training.policy import apply_placement
from alignment.training.precision import LossScale
from alignment.training.prediction_norm import PredictionNorms
from alignment.training.sharding import shard


@dataclass(frozen=True)
class Workbench:
    """The parts of a run that an update works with, on this process."""

    recipe: Recipe
    placement: Placement
    backbone: Backbone
    accelerator: Accelerator
    denoiser: nn.Module
    wrapped: nn.Module
    """The denoiser in its distributed wrapper, or the denoiser itself when it is sharded: its backward passes
    synchronise gradients.
    """
    sharded: bool = False
    """True when all processes must run the same passes; see sharding.py."""
    health: RunHealth = field(default_factory=lambda: RunHealth(torch.device("cpu")))
    scale: LossScale = field(default_factory=lambda: LossScale("fp32"))
    """Factor on the loss of every backward pass; the loop divides the gradients by it."""

    @property
    def device(self) -> torch.device:
        """Device of the denoiser."""
        device: torch.device = self.accelerator.device
        return device

    def backward_pass(self, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a pass with a gradient, `last` for the last one of a step.

        Copies of the weights synchronise gradients once a step. Shards do in every pass: no process has memory for the
        gradient of every weight.
        """
        if last or self.sharded:
            return nullcontext()
        context: AbstractContextManager[None] = self.accelerator.no_sync(self.wrapped)
        return context

    def load_base(self) -> nn.Module:
        """Load one more copy of the base denoiser, frozen, in the recipe's storage, in shards if the policy is."""
        base = self.backbone.load_denoiser(torch.device("cpu") if self.sharded else None, self.recipe.frozen_weights)
        apply_placement(base, self.placement)
        if self.sharded:
            shard(base, self.device, self.accelerator.num_processes)
        return base


@runtime_checkable
class Adjustable(Protocol):
    """An update whose micro-batch can change between steps; gradients stay those of the global batch."""

    def largest_micro_batch(self) -> int:
        """Return the most pairs that one pass of a step can have."""
        ...

    def set_micro_batch(self, size: int) -> None:
        """Use this micro-batch from the next step on."""
        ...

    def try_pass(self, size: int) -> int:
        """Run one forward and backward pass of at most `size` pairs, and return their number.

        It adds to the gradients of this process and synchronises nothing.
        """
        ...


class Update(Protocol):
    """Forward and backward passes of one optimiser step. Steps are numbered from 0."""

    unit: str
    """Unit that `global_batch` counts."""
    shown: str
    """Metric shown beside the loss in the progress of a run."""

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Add this process's gradient of the mean over the global batch; return float64 sums of the monitors.

        Every process names the same monitors, and the gradients of all processes are averaged.
        """
        ...

    def prime(self, step: int) -> None:
        """Run one synchronised backward pass whose gradient the loop discards."""

    def measure(self, done: int) -> dict[str, Tensor]:
        """Return this process's part, float64, of metrics of the weights after `done` steps; {} at most steps.

        The parts of all processes, which name the same metrics, add up to the metric. Neither gradients nor the global
        generator change.
        """
        ...

    def may_pause(self, step: int) -> bool:
        """Return True when weights and optimiser suffice to continue at this step, so a checkpoint is possible."""
        ...

    def norms(self) -> Sequence[PredictionNorms]:
        """Return the sizes of the policy's and the base's predictions on fixed latents.

        Called after the last step, by the main process, or by all processes when the weights are sharded.
        """
        ...

    def close(self) -> None:
        """Stop what works beside the steps. Called once, after the last step or an error."""


MakeUpdate = Callable[[Workbench], Update]
