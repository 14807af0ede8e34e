"""Split a denoiser into the units that gradient checkpointing repeats: what a pass keeps of each, and its work.

Torch-free: everything follows from the configuration. The bytes per value (`_KEPT`) are those that autograd keeps of
each unit with fused attention; tests compare the sums with torch's own count on the meta device. A value is one number
of a feature map or of a token.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["fp32", "bf16"]
Tuning = Literal["lora", "full"]
UnitKind = Literal[
    "resnet",
    "shortcut",
    "convolution",
    "attention_frame",
    "unet_block",
    "joint_block",
    "single_block",
    "dual_attention",
]

_KEPT: Mapping[tuple[Tuning, Precision], Mapping[UnitKind, float]] = {
    ("full", "fp32"): {
        "resnet": 12,
        "shortcut": 0,
        "convolution": 4,
        "attention_frame": 12,
        "unet_block": 112,
        "joint_block": 100,
        "single_block": 100,
    },
    ("lora", "fp32"): {
        "resnet": 12,
        "shortcut": 0,
        "convolution": 4,
        "attention_frame": 12,
        "unet_block": 92,
        "joint_block": 100,
        "single_block": 100,
    },
    ("full", "bf16"): {
        "resnet": 10,
        "shortcut": 2,
        "convolution": 2,
        "attention_frame": 8,
        "unet_block": 66,
        "joint_block": 60,
        "single_block": 60,
    },
    ("lora", "bf16"): {
        "resnet": 10,
        "shortcut": 2,
        "convolution": 2,
        "attention_frame": 8,
        "unet_block": 60,
        "joint_block": 60,
        "single_block": 60,
    },
}
"""Bytes that a pass keeps for each value of a unit. `lora` has adapters on the attention's matrices."""
_STREAM_BYTES: Mapping[Precision, int] = {"fp32": 4, "bf16": 2}
"""Bytes of one value between two units, which is all that a checkpointed unit keeps."""
_CLIP_TOKENS = 77
_TEXT_TOKENS: Mapping[str, int] = {
    "stable_diffusion": _CLIP_TOKENS,
    "sdxl": _CLIP_TOKENS,
    "sd3": _CLIP_TOKENS + 256,
    "flux": 512,
}
_PATCH = 2
"""Side of a transformer's token in latent pixels."""


@dataclass(frozen=True)
class Unit:
    """One part of the denoiser, for one image."""

    kind: UnitKind
    values: float
    """Values that the bytes of its kind are counted for."""
    inputs: float
    """Values that it receives from the unit before it."""
    flops: float
    """Multiplications and additions of its forward pass."""
    repeats: bool = True
    """True if gradient checkpointing can drop what it keeps and compute it again."""

    def kept_bytes(self, tuning: Tuning, precision: Precision) -> float:
        """Return the bytes that it keeps for its backward pass."""
        return _KEPT[tuning, precision][self.kind] * self.values


def units_of(family: str, config: Mapping[str, Any], latent_side: int) -> list[Unit]:
    """Return the units of a family's denoiser for a square latent of this side."""
    if family in ("stable_diffusion", "sdxl"):
        return list(_unet(config, latent_side))
    tokens, text = (latent_side // _PATCH) ** 2, _TEXT_TOKENS[family]
    return list(_sd3(config, tokens, text) if family == "sd3" else _flux(config, tokens, text))


def kept_bytes(units: Sequence[Unit], tuning: Tuning, precision: Precision, *, checkpoint_every: int = 0) -> float:
    """Return the bytes that a training pass of one image keeps.

    `checkpoint_every` = n: every n-th unit keeps its input only and is computed again in the backward pass, when it
    keeps everything once more; 0: none, 1: all.
    """
    every, once_more, repeated = 0.0, 0.0, 0
    for unit in units:
        own = unit.kept_bytes(tuning, precision)
        if unit.repeats:
            repeated += 1
        if unit.repeats and checkpoint_every and repeated % checkpoint_every == 0:
            every += _STREAM_BYTES[precision] * unit.inputs
            once_more = max(once_more, own)
        else:
            every += own
    return every + once_more


def repeated_share(checkpoint_every: int) -> float:
    """Return the share of the forward pass that gradient checkpointing computes twice."""
    return 1 / checkpoint_every if checkpoint_every else 0.0


# --- UNets ------------------------------------------------------------------------------------------------------------


def _unet(config: Mapping[str, Any], side: int) -> Iterator[Unit]:
    widths = list(config["block_out_channels"])
    layers = _per_block(config.get("layers_per_block", 2), len(widths))
    depths = _per_block(config.get("transformer_layers_per_block", 1), len(widths))
    text = float(_CLIP_TOKENS), float(config["cross_attention_dim"])
    yield from _down(config, side, widths, layers, depths, text)
    area = (side // 2 ** (len(widths) - 1)) ** 2
    yield _resnet(widths[-1], widths[-1], area)
    yield from _attention(widths[-1], area, depths[-1], text)
    yield _resnet(widths[-1], widths[-1], area)
    yield from _up(config, side, widths, layers, depths, text)
    half = _resnet(widths[0], 0, side**2)
    yield Unit("resnet", half.values, 0, 0, repeats=False)  # norm, activation and convolution of the output


def _down(
    config: Mapping[str, Any],
    side: int,
    widths: Sequence[int],
    layers: Sequence[int],
    depths: Sequence[int],
    text: tuple[float, float],
) -> Iterator[Unit]:
    width = widths[0]
    for level, kind in enumerate(config["down_block_types"]):
        area = (side // 2**level) ** 2
        for _ in range(layers[level]):
            yield from _resnets(width, widths[level], area)
            width = widths[level]
            if kind.startswith("CrossAttn"):
                yield from _attention(width, area, depths[level], text)
        if level < len(widths) - 1:
            yield _convolution(width, area, area // 4)


def _up(
    config: Mapping[str, Any],
    side: int,
    widths: Sequence[int],
    layers: Sequence[int],
    depths: Sequence[int],
    text: tuple[float, float],
) -> Iterator[Unit]:
    width = widths[-1]
    for number, kind in enumerate(config["up_block_types"]):
        level = len(widths) - 1 - number
        area, below = (side // 2**level) ** 2, widths[max(level - 1, 0)]
        for layer in range(layers[level] + 1):
            skip = below if layer == layers[level] else widths[level]
            yield from _resnets(width + skip, widths[level], area)
            width = widths[level]
            if kind.startswith("CrossAttn"):
                yield from _attention(width, area, depths[level], text)
        if level > 0:
            yield _convolution(width, 4 * area, 4 * area)


def _per_block(value: int | Sequence[int], blocks: int) -> list[int]:
    return [value] * blocks if isinstance(value, int) else list(value)


def _resnets(inputs: int, outputs: int, area: int) -> Iterator[Unit]:
    yield _resnet(inputs, outputs, area)
    if inputs != outputs:
        yield Unit("shortcut", inputs * area, 0, 2 * inputs * outputs * area, repeats=False)


def _resnet(inputs: int, outputs: int, area: int) -> Unit:
    flops = 2 * 9 * area * outputs * (inputs + outputs)
    return Unit("resnet", (inputs + outputs) * area, inputs * area, flops)


def _convolution(width: int, read: int, written: int) -> Unit:
    return Unit("convolution", width * read, width * read, 2 * 9 * written * width**2, repeats=False)


def _attention(width: int, area: int, depth: int, text: tuple[float, float]) -> Iterator[Unit]:
    """Yield the transformer of a block: its frame of norm and projections, then each of its blocks."""
    tokens, states = text
    yield Unit("attention_frame", width * area, width * area, 4 * area * width**2, repeats=False)
    linear = 2 * area * width**2 * (4 + 2 + 12) + 4 * tokens * states * width
    for _ in range(depth):
        yield Unit("unet_block", width * area, width * area, linear + 4 * area * width * (area + tokens))


# --- transformers -----------------------------------------------------------------------------------------------------


def _flux(config: Mapping[str, Any], tokens: int, text: int) -> Iterator[Unit]:
    width, both = int(config["num_attention_heads"]) * int(config["attention_head_dim"]), tokens + text
    flops = 24 * both * width**2 + 4 * both**2 * width
    for _ in range(int(config["num_layers"])):
        yield Unit("joint_block", both * width, both * width, flops)
    for _ in range(int(config["num_single_layers"])):
        yield Unit("single_block", both * width, both * width, flops)


def _sd3(config: Mapping[str, Any], tokens: int, text: int) -> Iterator[Unit]:
    width, both = int(config["num_attention_heads"]) * int(config["attention_head_dim"]), tokens + text
    dual = set(config.get("dual_attention_layers", ()))
    for number in range(int(config["num_layers"])):
        flops = 24 * both * width**2 + 4 * both**2 * width
        yield Unit("joint_block", both * width, both * width, flops)
        if number in dual:
            extra = 8 * tokens * width**2 + 4 * tokens**2 * width
            yield Unit("dual_attention", tokens * width, 0, extra, repeats=False)
