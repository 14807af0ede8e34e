"""A denoiser on torch's meta device: weights by shape, tensors that a training pass keeps, and work of a forward pass.

Nothing is computed or held: a model of 12 billion weights is measured in seconds. It shows what autograd of a GPU would
keep: attention keeps its inputs, its output and one float32 per row and head, as the flash and memory-efficient kernels
do, and autocast casts what CUDA's does. B counts images, C H W a latent, L tokens, D features.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alignment.catalogues.lookup import resolve
from alignment.contracts.training import FullFineTune, Lora

Precision = Literal["fp32", "bf16"]

_CLASSES: Mapping[str, str] = {
    "stable_diffusion": "diffusers:UNet2DConditionModel",
    "sdxl": "diffusers:UNet2DConditionModel",
    "sd3": "diffusers:SD3Transformer2DModel",
    "flux": "diffusers:FluxTransformer2DModel",
}
_LOWERED = {F.linear, F.conv2d, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention}
"""Functions that CUDA's autocast runs in bfloat16."""
_RAISED = {F.layer_norm, F.group_norm, F.softmax, torch.pow, torch.rsqrt}
"""Functions that it runs in float32."""


@dataclass(frozen=True)
class PassInput:
    """Sizes of the denoiser's input in a training pass."""

    latent_side: int
    """Height and width of the latent."""
    num_images: int = 1
    text_tokens: int = 77


@dataclass
class _Kept:
    """Bytes that a pass keeps for its backward pass, and the multiplications and additions of its forward pass."""

    activations: int = 0
    weight_copies: int = 0
    """Casts of weights to the precision of the pass."""
    flops: int = 0
    storages: dict[int, Any] = field(default_factory=dict)
    """Storages counted so far; held, so that no other takes the same address."""


def denoiser_class(family: str) -> Any:
    """Import and return diffusers' class of a family's denoiser."""
    return resolve(_CLASSES[family])


def meta_denoiser(family: str, config: Mapping[str, Any]) -> nn.Module:
    """Build the denoiser of a family from its configuration, without memory for its weights; all are frozen."""
    with torch.device("meta"):
        model: nn.Module = denoiser_class(family).from_config(dict(config))
    return model.to("meta").requires_grad_(False).eval()  # a few buffers are made on the CPU


def weight_groups(denoiser: nn.Module) -> list[tuple[str, tuple[int, ...], int]]:
    """Return name, shape and number of the weights. Equal weights of repeated blocks are one group: `*` for its number.

    Lists of blocks have names in the plural; other numbers, as in `to_out.0`, belong to the names of adapters' targets.
    """
    groups: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, weight in denoiser.named_parameters():
        key = re.sub(r"(?<=s)\.\d+(?=\.)", ".*", name), tuple(weight.shape)
        groups[key] = groups.get(key, 0) + 1
    return [(name, shape, count) for (name, shape), count in groups.items()]


def _training_pass(
    denoiser: nn.Module, family: str, tuning: Lora | FullFineTune, *, size: PassInput, precision: Precision
) -> _Kept:
    """Run a pass of the policy. `tuning` is attached to the denoiser if it has no adapter yet.

    `precision` "bf16" is autocast over the weights' dtype, as in the loop.
    """
    _attach(denoiser, tuning)
    kept = _Kept()
    own = {weight.untyped_storage()._cdata for weight in denoiser.parameters()}
    with (
        warnings.catch_warnings(),
        _Emulated(kept, lower=precision == "bf16") as emulated,
        _counted(kept, own, emulated),
    ):
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # of RMSNorm, as on a GPU
        denoiser(**_arguments(denoiser, family, size))
    return kept


def _attach(denoiser: Any, tuning: Lora | FullFineTune) -> None:
    if isinstance(tuning, FullFineTune):
        denoiser.requires_grad_(True)
    elif not getattr(denoiser, "peft_config", None):
        from peft import LoraConfig

        config = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules=list(tuning.target_modules))
        denoiser.add_adapter(config)


@contextmanager
def _counted(kept: _Kept, own: set[int], emulated: "_Emulated") -> Iterator[None]:
    """Count the distinct storages that autograd keeps, without those of the weights themselves."""

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata in own or storage._cdata in kept.storages:
            return tensor
        kept.storages[storage._cdata] = storage
        if storage._cdata in emulated.weight_casts:
            kept.weight_copies += storage.nbytes()
        else:
            kept.activations += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


class _Emulated(TorchFunctionMode):
    """CUDA's autocast to bfloat16 (if `lower`) and fused attention, on meta tensors; counts their operations."""

    def __init__(self, kept: _Kept, *, lower: bool) -> None:
        super().__init__()
        self.kept = kept
        self.lower = lower
        self.weight_casts: dict[int, Tensor] = {}
        self._casts: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.lower and func in _LOWERED | _RAISED:
            dtype = torch.bfloat16 if func in _LOWERED else torch.float32
            args = tuple(self._cast(value, dtype) for value in args)
            kwargs = {name: self._cast(value, dtype) for name, value in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
            self.kept.flops += 4 * query.numel() * key.shape[-2]
            return _FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
        result = func(*args, **kwargs)
        self.kept.flops += _flops(func, args, result)
        return result

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = cast = value.to(dtype)
            self.weight_casts[cast.untyped_storage()._cdata] = cast
        return self._casts[id(value)]


def _flops(func: Any, args: Any, result: Any) -> int:
    """Return the multiplications and additions of a linear layer or a convolution; 0 for anything else."""
    if func is F.linear:
        return 2 * int(result.numel()) * int(args[1].shape[1])
    return 2 * int(result.numel()) * int(args[1][0].numel()) if func is F.conv2d else 0


class _FusedAttention(torch.autograd.Function):
    """Attention that keeps what the fused kernels keep."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        return tuple(torch.empty_like(tensor) for tensor in (query, key, value))


def _arguments(denoiser: Any, family: str, size: PassInput) -> dict[str, Any]:
    """Return the arguments of a pass, on the meta device, as the backbones give them."""
    config, count, side = denoiser.config, size.num_images, size.latent_side
    with torch.device("meta"):
        times = torch.empty(count)
        if family in ("stable_diffusion", "sdxl"):
            added: dict[str, Any] = {}
            if config.get("addition_embed_type") == "text_time":
                width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
                added["added_cond_kwargs"] = {
                    "text_embeds": torch.empty(count, width),
                    "time_ids": torch.empty(count, 6),
                }
            return {
                "sample": torch.empty(count, config["in_channels"], side, side),
                "timestep": times,
                "encoder_hidden_states": torch.empty(count, size.text_tokens, config["cross_attention_dim"]),
                **added,
            }
        common = {
            "timestep": times,
            "encoder_hidden_states": torch.empty(count, size.text_tokens, config["joint_attention_dim"]),
            "pooled_projections": torch.empty(count, config["pooled_projection_dim"]),
        }
        if family == "sd3":
            return {"hidden_states": torch.empty(count, config["in_channels"], side, side), **common}
        tokens = (side // 2) ** 2
        return {
            "hidden_states": torch.empty(count, tokens, config["in_channels"]),
            "guidance": torch.empty(count) if config.get("guidance_embeds") else None,
            "txt_ids": torch.empty(size.text_tokens, 3),
            "img_ids": torch.empty(tokens, 3),
            **common,
        }
