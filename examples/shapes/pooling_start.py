"""Starting weights that make an untrained autoencoder average its input over 8 x 8 blocks and paint the blocks back.

From random weights the autoencoder needs tens of thousands of images to learn that colour must pass through; from here
it has the colours at once and learns the edges. Twelve channels carry the picture through every layer: for each of red,
green and blue the value, its negative, and two constants. As silu(x) - silu(-x) = x, value and negative survive the
activation; as the constants dominate a group's variance, they survive the norm.
"""

import torch
from diffusers import AutoencoderKL
from torch import nn

CARRIED = 12
_CONSTANT = 2.0
_NORM_SCALE = 1.45
"""Typical standard deviation of a group that holds a value, its negative and both constants."""
_LOG_VARIANCE = -5.0


def _clear(conv: nn.Conv2d, rows: int) -> None:
    conv.weight[:rows] = 0.0
    assert conv.bias is not None
    conv.bias[:rows] = 0.0


def _carry(conv: nn.Conv2d) -> None:
    """Pass the carried channels on; a stride-2 convolution averages them over 2 x 2."""
    _clear(conv, CARRIED)
    middle = conv.kernel_size[0] // 2
    for channel in range(CARRIED):
        if conv.stride[0] == 2:
            conv.weight[channel, channel, :2, :2] = 0.25
        else:
            conv.weight[channel, channel, middle, middle] = 1.0


def _enter(conv: nn.Conv2d) -> None:
    """Spread three values over the carried channels."""
    _clear(conv, CARRIED)
    assert conv.bias is not None
    for value in range(3):
        conv.weight[4 * value, value, 1, 1] = 1.0
        conv.weight[4 * value + 1, value, 1, 1] = -1.0
        conv.bias[4 * value + 2] = _CONSTANT
        conv.bias[4 * value + 3] = -_CONSTANT


def _leave(conv: nn.Conv2d) -> None:
    """Gather three values from the carried channels, behind norm and activation."""
    _clear(conv, 3)
    for value in range(3):
        conv.weight[value, 4 * value, 1, 1] = _NORM_SCALE
        conv.weight[value, 4 * value + 1, 1, 1] = -_NORM_SCALE


def _narrow_posterior(vae: AutoencoderKL) -> None:
    """Pass latents unchanged, with little noise: noise of the latents' own size would hide the colours."""
    before, after = vae.quant_conv, vae.post_quant_conv
    assert isinstance(before, nn.Conv2d)
    assert isinstance(after, nn.Conv2d)
    channels = after.out_channels
    for conv in (before, after):
        _clear(conv, conv.out_channels)
        conv.weight[:channels, :channels, 0, 0] = torch.eye(channels)
    assert before.bias is not None
    before.bias[channels:] = _LOG_VARIANCE


@torch.no_grad()
def start_as_pooling(vae: AutoencoderKL) -> None:
    """Overwrite the autoencoder's weights in place; channels beyond the carried ones keep their random start."""
    for name, module in vae.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if name.endswith(".conv2"):
            module.weight.zero_()
            assert module.bias is not None
            module.bias.zero_()
        elif name.endswith("conv_in"):
            _enter(module)
        elif name.endswith("conv_out"):
            _leave(module)
        elif name.endswith((".conv_shortcut", "samplers.0.conv")):
            _carry(module)
    _narrow_posterior(vae)
