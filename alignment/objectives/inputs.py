"""Inputs and outputs of an objective. B counts pairs."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PairErrors:
    """Mean squared denoising error over C, H, W for each image of each pair, float32.

    Both images of a pair get the same noise and the same timestep.
    """

    chosen_B: Tensor
    rejected_B: Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss to minimise, and the margin by which the policy agrees with the labels.

    loss_B carries the gradient. margin_B is detached, and positive where the policy agrees with the label.
    """

    loss_B: Tensor
    margin_B: Tensor
