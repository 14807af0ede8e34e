"""What the loop asks of one optimiser step: gradients on the weights and sums of what is worth watching."""

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
    """The same denoiser as the processes share it: its backward passes synchronise gradients."""

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        device: torch.device = self.accelerator.device
        return device


class Update(Protocol):
    """Forward and backward passes of one optimiser step. Steps are numbered from 0."""

    unit: str
    """What `global_batch` counts."""

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Leave this process's gradient of the mean over the global batch; sums of the monitors, float64 scalars.

        Every process names the same monitors, and the gradients of all are averaged.
        """

    def settle(self, step: int) -> None:
        """One synchronised backward pass whose gradient the loop throws away."""

    def may_pause(self, step: int) -> bool:
        """Whether weights and optimiser alone tell how to go on with this step: a checkpoint may be taken before it."""


MakeUpdate = Callable[[Workbench], Update]
