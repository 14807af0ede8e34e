"""Frozen linear layers stored in 8 or 4.5 bits a weight. Each product restores the weights, in both directions.

Letters: O outputs and I inputs of a layer, N blocks of 64 weights. Restored weights live as long as one product; what
autograd keeps for the backward pass are the codes. The numbers are the same on every device.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["int8", "nf4"]
BLOCK = 64
"""Weights that share a scale in NF4."""
INT8_MAX = 127
# The quantiles of a normal distribution, scaled to [-1, 1], with an exact zero: Dettmers et al. 2023, arXiv:2305.14314,
# appendix E.
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def quantise(weight_OI: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Return codes and float32 scales of a matrix.

    int8: codes OI, int8, one scale for each row. nf4: codes uint8, two weights in a byte (the first in the high half),
    one scale for each block of 64. A scale is the largest absolute weight of its row or block.
    """
    if kind == "int8":
        scales_O1 = weight_OI.float().abs().amax(dim=1, keepdim=True)
        codes_OI = (weight_OI.float() * (INT8_MAX / _nonzero(scales_O1))).round().to(torch.int8)
        return codes_OI, scales_O1
    blocks_NK = weight_OI.float().reshape(-1, BLOCK)
    scales_N1 = blocks_NK.abs().amax(dim=1, keepdim=True)
    levels = torch.tensor(NF4_LEVELS, device=weight_OI.device)
    codes_NK = torch.bucketize(blocks_NK / _nonzero(scales_N1), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    return codes_NK[:, 0::2] << 4 | codes_NK[:, 1::2], scales_N1


def restore(codes: Tensor, scales: Tensor, shape: tuple[int, int], kind: Kind, dtype: torch.dtype) -> Tensor:
    """Return the matrix OI that codes and scales stand for, multiplied in float32 and rounded once."""
    if kind == "int8":
        return (codes * (scales / INT8_MAX)).to(dtype)
    levels = torch.tensor(NF4_LEVELS, device=codes.device)
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1)  # both weights of each byte
    return (pairs[codes.int()].reshape(-1, BLOCK) * scales).to(dtype).reshape(shape)


class QuantisedLinear(nn.Linear):
    """A frozen linear layer; its inputs and results have the dtype of autocast, or of the input without autocast.

    It is an `nn.Linear` for libraries that add adapters to linear layers; `weight` holds the codes.
    """

    def __init__(self, source: nn.Linear, kind: Kind) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.kind = source.in_features, source.out_features, kind
        codes, scales = quantise(source.weight.detach(), kind)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scales", scales)
        self.bias = source.bias

    def forward(self, input: Tensor) -> Tensor:
        """Return input times the restored weights, plus the bias."""
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        shape = (self.out_features, self.in_features)
        product: Any = _Product.apply  # torch does not annotate it
        result: Tensor = product(input.to(dtype), self.weight, self.scales, self.bias, shape, self.kind)
        return result


class _Product(torch.autograd.Function):
    """A linear layer whose backward pass restores the weights again, rather than keep them from the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, shape: tuple[int, int], kind: Kind
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.shape, ctx.kind = shape, kind
        weight_OI = restore(codes, scales, shape, kind, values.dtype)
        return F.linear(values, weight_OI, None if bias is None else bias.to(values.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        weight_OI = restore(codes, scales, ctx.shape, ctx.kind, gradient.dtype)
        return gradient @ weight_OI, None, None, None, None, None


def _nonzero(scales: Tensor) -> Tensor:
    return scales.clamp_min(torch.finfo(scales.dtype).tiny)
