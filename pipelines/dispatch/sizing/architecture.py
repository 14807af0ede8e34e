"""Split a denoiser into the units that gradient checkpointing repeats: what a pass keeps of each, and its work.

Torch-free: everything follows from the configuration. The bytes per value (`_KEPT`) are those that autograd keeps of
each unit with fused attention; tests compare the sums with torch's own count on the meta device. A value is one number
of a feature map or of a token.
"""

import itertools
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
    "linear_frame",
    "unet_block",
    "joint_block",
    "single_block",
    "sd3_block",
    "dual_attention",
]

_KEPT: Mapping[tuple[Tuning, Precision], Mapping[str, float]] = {
    ("full", "fp32"): {
        "resnet": 12,
        "shortcut": 0,
        "convolution": 4,
        "attention_frame": 12,
        "linear_frame": 12,
        "unet_block": 112,
        "unet_block_text": 8,
        "joint_block": 96,
        "joint_block_text": 96,
        "single_block": 84,
        "sd3_block": 100,
        "sd3_block_text": 100,
        "dual_attention": 40,
    },
    ("lora", "fp32"): {
        "resnet": 12,
        "shortcut": 0,
        "convolution": 4,
        "attention_frame": 12,
        "linear_frame": 4,
        "unet_block": 92,
        "unet_block_text": 8,
        "joint_block": 52,
        "joint_block_text": 48,
        "single_block": 48,
        "sd3_block": 56,
        "sd3_block_text": 52,
        "dual_attention": 28,
    },
    ("full", "bf16"): {
        "resnet": 10,
        "shortcut": 2,
        "convolution": 2,
        "attention_frame": 8,
        "linear_frame": 8,
        "unet_block": 66,
        "unet_block_text": 10,
        "joint_block": 68,
        "joint_block_text": 68,
        "single_block": 60,
        "sd3_block": 74,
        "sd3_block_text": 74,
        "dual_attention": 38,
    },
    ("lora", "bf16"): {
        "resnet": 10,
        "shortcut": 2,
        "convolution": 2,
        "attention_frame": 8,
        "linear_frame": 4,
        "unet_block": 60,
        "unet_block_text": 10,
        "joint_block": 40,
        "joint_block_text": 32,
        "single_block": 34,
        "sd3_block": 44,
        "sd3_block_text": 36,
        "dual_attention": 28,
    },
}
"""Bytes that a pass keeps for each value of a unit, and of the text that it reads. `lora` has adapters on the matrices
of attention: other frozen matrices need no input for their gradient."""
_STREAM_BYTES: Mapping[Precision, int] = {"fp32": 4, "bf16": 2}
"""Bytes of one value between two units, which is all that a checkpointed unit keeps."""
_BLOCKS = ("unet_block", "joint_block", "single_block", "sd3_block")
"""Units with attention, which adapters are on."""
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
    text: float = 0.0
    """Values of the text that it keeps apart from the image's."""
    repeats: bool = True
    """True if gradient checkpointing can drop what it keeps and compute it again."""

    def kept_bytes(self, tuning: Tuning, precision: Precision) -> float:
        """Return the bytes that it keeps for its backward pass."""
        kept = _KEPT[tuning, precision]
        return kept[self.kind] * self.values + kept.get(f"{self.kind}_text", 0.0) * self.text


def units_of(family: str, config: Mapping[str, Any], latent_side: int) -> list[Unit]:
    """Return the units of a family's denoiser for a square latent of this side."""
    if family in ("stable_diffusion", "sdxl"):
        return list(_unet(config, latent_side))
    tokens, text = (latent_side // _PATCH) ** 2, _TEXT_TOKENS[family]
    return list(_sd3(config, tokens, text) if family == "sd3" else _flux(config, tokens, text))


def kept_bytes(units: Sequence[Unit], tuning: Tuning, precision: Precision, *, checkpoint_every: int = 0) -> float:
    """Return the bytes that a training pass of one image keeps.

    `checkpoint_every` = n: every n-th unit keeps its input only and is computed again in the backward pass, when it
    keeps everything once more; 0: none, 1: all. What comes before the first adapter has no gradient and keeps nothing.
    """
    every, once_more, repeated = 0.0, 0.0, 0
    for unit in units if tuning == "full" else itertools.dropwhile(lambda own: own.kind not in _BLOCKS, units):
        own = unit.kept_bytes(tuning, precision)
        repeated += unit.repeats
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


@dataclass(frozen=True)
class _Text:
    """Text that the blocks of a UNet read, and the kind of their projections."""

    tokens: int
    width: int
    linear: bool


@dataclass(frozen=True)
class _UNet:
    """A UNet's sizes by level, the finest first."""

    side: int
    widths: Sequence[int]
    layers: Sequence[int]
    depths: Sequence[int]
    """Blocks of each transformer."""
    text: _Text

    def area(self, level: int) -> int:
        """Return the pixels of a feature map."""
        return int((self.side // 2**level) ** 2)

    def down(self, kinds: Sequence[str]) -> Iterator[Unit]:
        """Yield the units from the finest level to the coarsest."""
        width = self.widths[0]
        for level, kind in enumerate(kinds):
            inputs = [width, *[self.widths[level]] * (self.layers[level] - 1)]
            yield from self._level(level, kind, inputs)
            width = self.widths[level]
            if level < len(kinds) - 1:
                yield _convolution(width, self.area(level), self.area(level + 1))

    def middle(self) -> Iterator[Unit]:
        """Yield the units of the coarsest level between the ways down and up."""
        level, width = len(self.widths) - 1, self.widths[-1]
        yield _resnet(width, width, self.area(level))
        yield from _attention(width, self.area(level), self.depths[-1], self.text)
        yield _resnet(width, width, self.area(level))

    def up(self, kinds: Sequence[str]) -> Iterator[Unit]:
        """Yield the units from the coarsest level to the finest; each has an input of the way down beside its own."""
        width = self.widths[-1]
        for number, kind in enumerate(kinds):
            level = len(kinds) - 1 - number
            own, below = self.widths[level], self.widths[max(level - 1, 0)]
            inputs = [width + own, *[2 * own] * (self.layers[level] - 1), own + below]
            yield from self._level(level, kind, inputs)
            width = own
            if level > 0:
                yield _convolution(width, self.area(level - 1), self.area(level - 1))

    def _level(self, level: int, kind: str, inputs: Sequence[int]) -> Iterator[Unit]:
        width, area = self.widths[level], self.area(level)
        for received in inputs:
            yield from _resnets(received, width, area)
            if kind.startswith("CrossAttn"):
                yield from _attention(width, area, self.depths[level], self.text)


def _unet(config: Mapping[str, Any], side: int) -> Iterator[Unit]:
    widths = list(config["block_out_channels"])
    sizes = _UNet(
        side,
        widths,
        layers=_per_block(config.get("layers_per_block", 2), len(widths)),
        depths=_per_block(config.get("transformer_layers_per_block", 1), len(widths)),
        text=_Text(_CLIP_TOKENS, int(config["cross_attention_dim"]), bool(config.get("use_linear_projection"))),
    )
    yield from sizes.down(config["down_block_types"])
    yield from sizes.middle()
    yield from sizes.up(config["up_block_types"])
    # Norm, activation and convolution of the output are half of a residual block.
    yield Unit("resnet", widths[0] * side**2, 0, 0, repeats=False)


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


def _attention(width: int, area: int, depth: int, text: _Text) -> Iterator[Unit]:
    """Yield the transformer of a block: its frame of norm and projections, then each of its blocks."""
    frame: UnitKind = "linear_frame" if text.linear else "attention_frame"
    yield Unit(frame, width * area, width * area, 4 * area * width**2, repeats=False)
    linear = 2 * area * width**2 * (4 + 2 + 12) + 4 * text.tokens * text.width * width
    attention = 4 * area * width * (area + text.tokens)
    for _ in range(depth):
        yield Unit("unet_block", width * area, width * area, linear + attention, text.tokens * width)


# --- transformers -----------------------------------------------------------------------------------------------------


def _flux(config: Mapping[str, Any], tokens: int, text: int) -> Iterator[Unit]:
    width, both = int(config["num_attention_heads"]) * int(config["attention_head_dim"]), tokens + text
    flops = 24 * both * width**2 + 4 * both**2 * width
    for _ in range(int(config["num_layers"])):
        yield Unit("joint_block", tokens * width, both * width, flops, text * width)
    for _ in range(int(config["num_single_layers"])):
        yield Unit("single_block", both * width, both * width, flops)


def _sd3(config: Mapping[str, Any], tokens: int, text: int) -> Iterator[Unit]:
    width, both = int(config["num_attention_heads"]) * int(config["attention_head_dim"]), tokens + text
    dual = set(config.get("dual_attention_layers", ()))
    for number in range(int(config["num_layers"])):
        flops = 24 * both * width**2 + 4 * both**2 * width
        yield Unit("sd3_block", tokens * width, both * width, flops, text * width)
        if number in dual:
            extra = 8 * tokens * width**2 + 4 * tokens**2 * width
            yield Unit("dual_attention", tokens * width, 0, extra, repeats=False)
