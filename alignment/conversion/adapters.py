"""Convert a trained adapter to the files that other programs read.

An adapted layer computes W x + (alpha / rank) B A x. `down` is A [rank, in], `up` is B [out, rank]; of a convolution A
is [rank, in, height, width] and B [out, rank, 1, 1]. Readers of `lora_down` and `lora_up` divide the tensor `.alpha`,
or without one the rank, by the rows of `down`, so each layer is written with its `.alpha`.

Sources: the naming rules of kohya's sd-scripts (networks/lora.py, lora_flux.py, lora_sd3.py; Apache 2.0) and the table
of keys that ComfyUI builds when it loads a model.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from alignment.backbones.model_files import LORA_FILE, LORA_METADATA
from alignment.conversion.original_names import Place, flux_place, sd3_place, sdxl_place

DOWN = (".lora.down.weight", ".lora_A.weight")
UP = (".lora.up.weight", ".lora_B.weight")
"""Ends of the names in diffusers' file: where only attention layers of a UNet are adapted, and everywhere else."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class AdaptedLayer:
    """One layer of the denoiser and its adapter."""

    name: str
    """Path of the module in diffusers' denoiser."""
    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Adapter:
    """The adapter of a denoiser."""

    part: str
    """`unet` or `transformer`."""
    layers: tuple[AdaptedLayer, ...]
    scale: float
    """alpha / rank."""


def read_adapter(weights_dir: Path) -> Adapter:
    """Read diffusers' file with the configuration in its metadata.

    ValueError when the file states no rank and alpha, has a tensor that is none of an adapter's, or has two spellings
    of names of which diffusers reads one: by the first name it decides whether to convert the others.
    """
    path = weights_dir / LORA_FILE
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        config = json.loads((file.metadata() or {}).get(LORA_METADATA, "{}"))
    part = min(tensors, default="").partition(".")[0]
    try:
        scale = config[f"{part}.lora_alpha"] / config[f"{part}.r"]
    except KeyError as error:
        raise ValueError(f"{path} does not state {error} in its metadata. Register the weights again.") from error
    if min(tensors).endswith((DOWN[1], UP[1])) and any(name.endswith(DOWN[0]) for name in tensors):
        raise ValueError(
            f"{path} names its layers in two ways, of which diffusers reads one and leaves the other layers out. Train"
            " the version again."
        )
    return Adapter(part, _layers(tensors, part, path), scale)


def _layers(tensors: Tensors, part: str, path: Path) -> tuple[AdaptedLayer, ...]:
    """Pair the tensors of each layer, sorted by name; ValueError names a tensor that is none of an adapter's."""
    halves: dict[str, Tensors] = defaultdict(dict)
    for name, tensor in tensors.items():
        ends = [(end, half) for half, spelled in (("down", DOWN), ("up", UP)) for end in spelled if name.endswith(end)]
        if not ends or not name.startswith(f"{part}."):
            raise ValueError(f"{path} holds {name}, which is no tensor of an adapter of the {part}. Train it again.")
        halves[name.removeprefix(f"{part}.").removesuffix(ends[0][0])][ends[0][1]] = tensor
    alone = sorted(name for name, own in halves.items() if len(own) != 2)
    if alone:
        raise ValueError(f"{path} holds one half of the adapter of {', '.join(alone[:3])}. Train it again.")
    return tuple(AdaptedLayer(name, own["down"], own["up"]) for name, own in sorted(halves.items()))


def kohya_tensors(adapter: Adapter, family: str) -> Tensors:
    """Name the tensors as kohya's scripts do: SD by diffusers' modules, the others by those of the model's authors.

    Query, key and value are one layer in the authors' SD3 and FLUX. Their adapters become one of three times the rank:
    the downs are stacked, the ups form a block-diagonal matrix. ValueError for a layer that the layout does not have.
    """
    place = PLACES.get(family)
    layers = adapter.layers if place is None else _in_place(adapter.layers, place)
    return _named(layers, "lora_unet_{}", adapter.scale, flat=True)


def comfyui_tensors(adapter: Adapter, family: str) -> Tensors:
    """Name the tensors by the keys of ComfyUI that follow diffusers' modules: `lora_unet_*`, or `transformer.*`."""
    if adapter.part == "unet":
        return _named(adapter.layers, "lora_unet_{}", adapter.scale, flat=True)
    return _named(adapter.layers, "transformer.{}", adapter.scale)


def _named(layers: Sequence[AdaptedLayer], form: str, scale: float, *, flat: bool = False) -> Tensors:
    """Return down, up and alpha of each layer; with `flat` the dots of its name become underscores."""
    tensors: Tensors = {}
    for layer in layers:
        name = form.format(layer.name.replace(".", "_") if flat else layer.name)
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(scale * len(layer.down))
    return tensors


def _in_place(
    layers: Sequence[AdaptedLayer], place: Callable[[Sequence[str]], Mapping[str, Place]]
) -> list[AdaptedLayer]:
    """Rename layers to the authors' layout and join those that are one layer there."""
    places = place([layer.name for layer in layers])
    parts: dict[str, dict[int, AdaptedLayer]] = defaultdict(dict)
    widths: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        own = places[layer.name]
        parts[own.name][own.index] = _swapped(layer) if own.halves_swapped else layer
        widths[own.name] = own.widths
    return [_joined(name, found, widths[name]) for name, found in parts.items()]


def _joined(name: str, parts: Mapping[int, AdaptedLayer], widths: tuple[int, ...]) -> AdaptedLayer:
    """Stack the downs [sum of ranks, in] and put the ups on the diagonal [sum of out, sum of ranks].

    A part of the layer without an adapter has rows of zeros; `widths` are its rows in units of `in`.
    """
    if len(widths) == 1:
        return replace(parts[0], name=name)
    width = next(iter(parts.values())).down.shape[1]
    blocks = [
        parts[index].up if index in parts else parts[min(parts)].up.new_zeros(units * width, 0)
        for index, units in enumerate(widths)
    ]
    return AdaptedLayer(name, torch.cat([parts[index].down for index in sorted(parts)]), _diagonal(blocks))


def _diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """Return the block-diagonal matrix of the blocks."""
    whole: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return whole


def _swapped(layer: AdaptedLayer) -> AdaptedLayer:
    """Exchange the halves of the output: diffusers' last modulation gives scale and shift, the authors' the reverse.

    Only where the output is twice the input: the modulation of an inner block has six parts in one order.
    """
    if layer.up.shape[0] != 2 * layer.down.shape[1]:
        return layer
    return replace(layer, up=torch.cat(layer.up.chunk(2)[::-1]))


PLACES: Mapping[str, Callable[[Sequence[str]], Mapping[str, Place]]] = {
    "sdxl": sdxl_place,
    "sd3": sd3_place,
    "flux": flux_place,
}
"""Families whose layers have other names in the layout of the model's authors."""
