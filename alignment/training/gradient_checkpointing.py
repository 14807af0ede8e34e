"""Gradient checkpointing: blocks of the denoiser that are computed again in the backward pass, to save memory.

A checkpointed block keeps its inputs instead of its activations. The backward pass repeats the same operations on the
same values, so gradients have the same bits where these operations are deterministic, as they are on a CPU. Passes
without a gradient, such as those of the reference, keep no activations and are not affected.

Source: Chen et al. 2016, arXiv:1604.06174, by torch.utils.checkpoint without re-entrance.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.checkpoint import checkpoint

from alignment.catalogues.optimisers import BLOCK_8BIT, has_8bit_moments
from alignment.contracts.jobs import BlockPolicy
from alignment.training.adaptive import Branch

logger = logging.getLogger(__name__)

LIGHTEST_LAST: tuple[BlockPolicy, ...] = ("none", "every_n", "all")
"""Policies in the order of their time, the fastest first."""
USED_SHARE = 0.9
"""Share of the memory that a trial may need. The rest is for other shapes of images, and for fragments."""


class CheckpointedBlocks:
    """The blocks of one diffusers model, and which of them are computed again in its backward passes.

    A block is a module of a class that the model declares as inseparable (`_no_split_modules`) without another such
    module inside: of a UNet its residual and its transformer blocks, of a transformer its blocks.
    Create it before the weights are divided, which renames the classes.
    """

    def __init__(self, denoiser: nn.Module, every: int) -> None:
        """`every`: with the policy every_n, n."""
        self._denoiser = cast(Any, denoiser)
        self._every = every
        self.blocks = _innermost(denoiser)
        self.checkpointed_every = 0
        """Set by the last policy: every n-th block is computed again; 0 for none."""

    def apply(self, policy: BlockPolicy) -> None:
        """Set the policy of the next passes, in place."""
        every = {"none": 0, "every_n": self._every, "all": 1}[policy]
        self.checkpointed_every = every
        if policy == "none":
            self._denoiser.disable_gradient_checkpointing()
            return
        keeping = {block for number, block in enumerate(self.blocks) if number % every}

        def run(block: nn.Module, *inputs: Any) -> Any:
            if block in keeping:
                return block(*inputs)
            # A denoiser draws nothing at random, and copying the generator's state would stop the GPU in each block.
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)

        self._denoiser.enable_gradient_checkpointing(run)

    def branches(self) -> list[Branch]:
        """Return every policy as a branch of an adaptive placement, the one that needs most memory first."""
        return [Branch({"gradient_checkpointing": policy}, partial(self.apply, policy)) for policy in LIGHTEST_LAST]


def _innermost(denoiser: nn.Module) -> list[nn.Module]:
    names = set(getattr(denoiser, "_no_split_modules", None) or ())
    declared = {module for module in denoiser.modules() if type(module).__name__ in names}
    return [
        module
        for module in denoiser.modules()
        if module in declared and not any(inner in declared and inner is not module for inner in module.modules())
    ]


# --- the policy `auto` ------------------------------------------------------------------------------------------------


class Memory(Protocol):
    """Memory of the device that a process trains on, in bytes."""

    def usable(self) -> int:
        """Return what the process may hold at most: what it holds now and what is free."""
        ...

    def reset(self) -> None:
        """Return unused memory to the device, and forget the peak."""

    def peak(self) -> int:
        """Return the most that the process has held since the last `reset`."""
        ...


@dataclass(frozen=True)
class _GpuMemory:
    device: torch.device

    def usable(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(free) + torch.cuda.memory_reserved(self.device)

    def reset(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


def memory_of(device: torch.device) -> Memory | None:
    """Return the memory of a GPU; None for a CPU, whose memory `auto` does not divide."""
    return _GpuMemory(device) if device.type == "cuda" else None


def starting_policy(asked: BlockPolicy | Literal["auto"], memory: Memory | None) -> BlockPolicy:
    """Return the policy until `auto` has found another: the one with the least memory on a GPU, none on a CPU."""
    if asked != "auto":
        return asked
    return "none" if memory is None else "all"


def fastest_that_fits(
    blocks: CheckpointedBlocks,
    attempt: Callable[[], None],
    agree: Callable[[bool], bool],
    *,
    memory: Memory,
    reserve_bytes: int,
) -> BlockPolicy:
    """Try the policies from the fastest on, apply the first that fits and return it; `all` is not tried.

    `attempt` runs a forward and a backward pass of one micro-batch. The peak of its memory and `reserve_bytes`, for
    what is allocated later, must be below USED_SHARE of the device's memory. `attempt` may not wait for other
    processes, since one may run out of memory where another does not. `agree` is `all_agree`.
    """
    for policy in LIGHTEST_LAST[:-1]:
        blocks.apply(policy)
        if agree(_fits(attempt, memory, reserve_bytes)):
            break
    else:
        policy = LIGHTEST_LAST[-1]
        blocks.apply(policy)
    memory.reset()
    logger.info("gradient checkpointing: %s, the fastest that fits %.1f GiB", policy, memory.usable() / 2**30)
    return policy


def _fits(attempt: Callable[[], None], memory: Memory, reserve_bytes: int) -> bool:
    memory.reset()
    try:
        attempt()
    except torch.OutOfMemoryError:
        return False
    return memory.peak() + reserve_bytes <= USED_SHARE * memory.usable()


def all_agree(accelerator: Accelerator, answer: bool) -> bool:
    """Return True when every process calls this with True; all wait for each other."""
    votes: Any = accelerator.reduce(torch.tensor(int(answer), device=accelerator.device), "sum")
    return bool(int(votes) == accelerator.num_processes)


def largest_of_all(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """Return the largest of each number over the processes; all wait for each other."""
    own = torch.tensor([values], dtype=torch.float64, device=accelerator.device)
    every: Any = accelerator.gather(own)
    return [float(value) for value in every.amax(dim=0).tolist()]


def moments_to_come(weights: list[nn.Parameter], kind: str, optimiser: torch.optim.Optimizer) -> int:
    """Return the bytes that an optimiser of this kind will allocate in its first step; 0 after it.

    Adam keeps two moments of each weight, in 8 bits one byte and a share of a scale each. Adafactor's factors are too
    small to count.
    """
    if kind == "adafactor" or any(optimiser.state.values()):
        return 0
    small = kind == "adamw8bit"
    return sum(
        2 * weight.numel() + 8 * weight.numel() // BLOCK_8BIT
        if small and has_8bit_moments(weight.numel())
        else 2 * weight.numel() * weight.element_size()
        for weight in weights
    )
