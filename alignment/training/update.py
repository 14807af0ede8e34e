"""Interface between the loop and one optimiser step: gradients on the weights, and sums of the monitors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from alignment.backbones.interface import Backbone
from alignment.contracts.jobs import Placement
from alignment.contracts.training import Recipe


@dataclass(frozen=True)
class Workbench:
    """The parts of a run that an update works with, on this process."""

    recipe: Recipe
    placement: Placement
    backbone: Backbone
    accelerator: Accelerator
    denoiser: nn.Module
    wrapped: nn.Module
    """The denoiser in its distributed wrapper: its backward passes synchronise gradients."""

    @property
    def device(self) -> torch.device:
        """Device of the denoiser."""
        device: torch.device = self.accelerator.device
        return device


class Update(Protocol):
    """Forward and backward passes of one optimiser step. Steps are numbered from 0."""

    unit: str
    """Unit that `global_batch` counts."""

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Add this process's gradient of the mean over the global batch; return float64 sums of the monitors.

        Every process names the same monitors, and the gradients of all processes are averaged.
        """
        ...

    def prime(self, step: int) -> None:
        """Run one synchronised backward pass whose gradient the loop discards."""

    def may_pause(self, step: int) -> bool:
        """Return True when weights and optimiser suffice to continue at this step, so a checkpoint is possible."""
        ...


MakeUpdate = Callable[[Workbench], Update]
