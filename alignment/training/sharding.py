"""Weights on several processes: copies (DDP), or shards (FSDP2).

With shards every process holds a part of each weight, of its gradient and of its optimiser state. The forward and
backward passes gather the weights of one block at a time. Every pass is therefore a joint act of all processes: they
must run the same passes in the same order, and read a whole weight together (`whole`).
"""

from typing import TYPE_CHECKING, TypeGuard

import torch
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from alignment.contracts.training import Lora, Recipe

# Imports of FSDP2 are in the functions: jobs without shards do not pay for them.
if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def copies_settings(recipe: Recipe) -> DistributedDataParallelKwargs:
    """Return the settings of DDP, which sends gradients in buckets.

    Gradients are parts of the buckets, so they need no second copy. A denoiser has no buffers that need a broadcast.
    The passes of a LoRA are the same in every step, so DDP may take its graph as static; the first pass, in which DDP
    learns the graph, must send its gradients.
    """
    return DistributedDataParallelKwargs(
        broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=isinstance(recipe.tuning, Lora)
    )


def shard(model: nn.Module, device: torch.device, num_processes: int) -> None:
    """Divide the weights of a diffusers model among all processes, in place, on `device`.

    The blocks that are gathered at a time are those that the model declares as inseparable (`_no_split_modules`);
    what is outside them is gathered with the model. Frozen weights are divided as well.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (num_processes,))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    for module in reversed(list(model.modules())):  # inner blocks first, as FSDP2 requires
        if module is not model and type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    # Without this, the weights outside the blocks would stay whole after a pass without a gradient, such as drawing an
    # image, and `model.parameters()` would return tensors that the optimiser does not know.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its values; for a sharded one, every process must call this at the same time."""
    return tensor.full_tensor() if _is_divided(tensor) else tensor


def own_part(values: Tensor, like: Tensor) -> Tensor:
    """Return a copy of the part of `values` that this process holds of a tensor like `like`, on its device.

    All processes have the same values; nothing is sent. Values of another shape are never divided.
    """
    copied = values.to(like.device, copy=True)
    if not _is_divided(like) or copied.shape != like.shape:
        return copied
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(copied, like.device_mesh, like.placements, src_data_rank=None)


def _is_divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "full_tensor")
