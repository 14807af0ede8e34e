"""Estimate the memory of one training process, part by part, from recipe, placement and denoiser. Torch-free."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from alignment.catalogues.optimisers import Optimiser
from alignment.catalogues.published import WeightGroup
from alignment.contracts.jobs import Placement
from alignment.contracts.training import FullFineTune, Lora, Recipe
from alignment.contracts.values import PositiveInt, Record
from pipelines.dispatch.sizing.architecture import Precision, Unit, kept_bytes
from pipelines.dispatch.sizing.weights import num_weights, read_in_backward, state_bytes, trained_weights

GIB = 2**30
_FLOAT32, _BFLOAT16 = 4, 2
_HALVES = ("bf16", "fp16")
_STORED_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1.1, "nf4": 0.6}
"""Bytes of one frozen weight by its storage. The last two have scales beside them, and small layers in two bytes."""
_CONTEXT_BYTES = 0.6 * GIB
"""Driver context and libraries of a process on a GPU; 0.4 to 0.8 GiB are usual."""
_FRAGMENTS = 0.05
"""Share of all else that the allocator holds beyond what is asked for, and short-lived tensors; an assumption."""


class TrainingCase(Record):
    """The settings of recipe and placement that decide the memory of a process."""

    tuning: Annotated[Lora | FullFineTune, Field(discriminator="kind")]
    optimiser: Optimiser
    needs_reference: bool
    compute: Precision
    """Precision of the passes: bf16 is autocast."""
    frozen_bytes: float = _FLOAT32
    """Bytes of one frozen weight: those below adapters, and those of the reference copy."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    """Gradient checkpointing of every n-th block; 0 for none."""
    shards: PositiveInt = 1
    """Number of processes that divide weights, gradients and optimiser states among themselves."""
    micro_batch: PositiveInt = 1
    """Pairs that one process holds at once; images for an online objective."""
    images: PositiveInt = 2
    """Images of each of them; those of a pair pass the denoiser together."""


class MemoryParts(Record):
    """Bytes of one process by purpose."""

    weights: float
    reference: float
    """A frozen copy; adapters need none, since the reference is the same weights with the adapter off."""
    gradients: float
    optimiser: float
    copies: float
    """Weights that autocast casts for a pass and keeps until its end."""
    activations: float
    """Tensors that the forward pass of a micro-batch keeps for its backward pass."""
    reserve: float
    """Driver context, and the allocator's overhead."""

    @property
    def floor(self) -> float:
        """Return what is held between two steps, whatever the batch."""
        return self.weights + self.reference + self.gradients + self.optimiser

    @property
    def total(self) -> float:
        """Return the sum."""
        return self.floor + self.copies + self.activations + self.reserve


@dataclass(frozen=True)
class Denoiser:
    """The part of a base that is trained."""

    weights: Sequence[WeightGroup]
    units: Sequence[Unit]
    """Its parts for one image; none if only the floor is asked for."""


def case_of(recipe: Recipe, placement: Placement) -> TrainingCase:
    """Read the settings that decide the memory: the one place that knows the fields of recipe and placement.

    `auto` gradient checkpointing counts as none, which it is wherever that fits.
    """
    stated = placement.model_dump() | recipe.model_dump()
    every = {"every_n": stated.get("checkpointed_every", 2), "all": 1}
    return TrainingCase(
        tuning=recipe.tuning,
        optimiser=recipe.optimiser,
        needs_reference=recipe.objective.needs_reference,
        compute="bf16" if stated["precision"] in _HALVES else "fp32",
        frozen_bytes=_STORED_BYTES[stated.get("frozen_weights", "fp32")],
        checkpoint_every=every.get(stated.get("gradient_checkpointing", "none"), 0),
        shards=placement.num_processes if placement.sharding == "fsdp2" else 1,
        images=1 if recipe.objective.online else 2,
        micro_batch=min(placement.micro_batch, share_of_batch(recipe, placement)),
    )


def share_of_batch(recipe: Recipe, placement: Placement) -> int:
    """Return the most pairs that one process trains on in a step."""
    return -(-recipe.global_batch // placement.num_processes)


def training_memory(case: TrainingCase, denoiser: Denoiser) -> MemoryParts:
    """Estimate the memory of a process.

    Weights, gradients and optimiser states are exact for what they count; activations are the bytes that autograd keeps
    in eager mode with fused attention; the reserve is an assumption. Trained weights and gradients are float32.
    """
    full = isinstance(case.tuning, FullFineTune)
    base = num_weights(denoiser.weights)
    trained = trained_weights(case.tuning, denoiser.weights)
    num_trained = num_weights(trained)
    frozen = 0 if full else base
    parts = {
        "weights": _FLOAT32 * num_trained + case.frozen_bytes * frozen,
        "reference": case.frozen_bytes * base if full and case.needs_reference else 0,
        "gradients": _FLOAT32 * num_trained,
        "optimiser": state_bytes(case.optimiser, trained),
    }
    parts = {name: value / case.shards for name, value in parts.items()}
    copied = 0 if full else num_trained
    if full or case.frozen_bytes == _FLOAT32:
        copied += num_weights(read_in_backward(case.tuning, denoiser.weights))
    parts["copies"] = _BFLOAT16 * copied / case.shards if case.compute == "bf16" else 0
    parts["activations"] = case.micro_batch * case.images * _image_bytes(case, denoiser)
    return MemoryParts(**parts, reserve=_CONTEXT_BYTES + _FRAGMENTS * sum(parts.values()))


def largest_micro_batch(case: TrainingCase, denoiser: Denoiser, memory_gib: float) -> int:
    """Return the most pairs that a process with this memory can hold at once; 0 when one pair does not fit."""
    one = training_memory(case.model_copy(update={"micro_batch": 1}), denoiser)
    each = case.images * _image_bytes(case, denoiser) * (1 + _FRAGMENTS)
    spare = memory_gib * GIB - one.total
    return 0 if spare < 0 else 1 + math.floor(spare / each)


def _image_bytes(case: TrainingCase, denoiser: Denoiser) -> float:
    tuning, every = case.tuning.kind, case.checkpoint_every
    return kept_bytes(denoiser.units, tuning, case.compute, checkpoint_every=every)
