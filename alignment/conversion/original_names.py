"""Names of a denoiser's layers in the layout of the model's authors, by their names in diffusers. Torch-free.

Sources: diffusers' converters of published checkpoints, and the modules of sgm (SDXL), MMDiT (SD3) and FLUX.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SDXL_LAYERS = 2
"""Residual layers per block of SDXL; the blocks that lead up have one more."""
QKV = (1, 1, 1)
QKV_MLP = (1, 1, 1, 4)


@dataclass(frozen=True)
class Place:
    """A layer, or a part of one, in the authors' layout."""

    name: str
    index: int = 0
    """Number of the part, in the order of the rows."""
    widths: tuple[int, ...] = (1,)
    """Rows of each part in units of the layer's input width; of a layer that is not joined, one entry without
    meaning."""
    halves_swapped: bool = False
    """True where the authors' output is shift and scale, and diffusers' is scale and shift."""


def _parts(names: Sequence[str], joined: str, widths: tuple[int, ...] = QKV) -> dict[str, Place]:
    return {name: Place(joined, index, widths) for index, name in enumerate(names)}


def _renamed(names: Mapping[str, str]) -> dict[str, Place]:
    return {name: Place(other) for name, other in names.items()}


SELF_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
TEXT_ATTENTION = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
SECOND_ATTENTION = ("attn2.to_q", "attn2.to_k", "attn2.to_v")
TIME = "time_text_embed.timestep_embedder"
TEXT = "time_text_embed.text_embedder"
GUIDANCE = "time_text_embed.guidance_embedder"

SD3_OUTER: Mapping[str, Place] = {
    **_renamed(
        {
            "pos_embed.proj": "x_embedder.proj",
            "context_embedder": "context_embedder",
            f"{TIME}.linear_1": "t_embedder.mlp.0",
            f"{TIME}.linear_2": "t_embedder.mlp.2",
            f"{TEXT}.linear_1": "y_embedder.mlp.0",
            f"{TEXT}.linear_2": "y_embedder.mlp.2",
            "proj_out": "final_layer.linear",
        }
    ),
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", halves_swapped=True),
}
SD3_BLOCK: Mapping[str, Place] = {
    **_parts(SELF_ATTENTION, "x_block.attn.qkv"),
    **_parts(TEXT_ATTENTION, "context_block.attn.qkv"),
    **_parts(SECOND_ATTENTION, "x_block.attn2.qkv"),
    **_renamed(
        {
            "attn.to_out.0": "x_block.attn.proj",
            "attn.to_add_out": "context_block.attn.proj",
            "attn2.to_out.0": "x_block.attn2.proj",
            "ff.net.0.proj": "x_block.mlp.fc1",
            "ff.net.2": "x_block.mlp.fc2",
            "ff_context.net.0.proj": "context_block.mlp.fc1",
            "ff_context.net.2": "context_block.mlp.fc2",
            "norm1.linear": "x_block.adaLN_modulation.1",
        }
    ),
    "norm1_context.linear": Place("context_block.adaLN_modulation.1", halves_swapped=True),
}
"""The modulation of the text stream has two parts in the last block only, where they are swapped."""

FLUX_OUTER: Mapping[str, Place] = {
    **_renamed(
        {
            "x_embedder": "img_in",
            "context_embedder": "txt_in",
            f"{TIME}.linear_1": "time_in.in_layer",
            f"{TIME}.linear_2": "time_in.out_layer",
            f"{TEXT}.linear_1": "vector_in.in_layer",
            f"{TEXT}.linear_2": "vector_in.out_layer",
            f"{GUIDANCE}.linear_1": "guidance_in.in_layer",
            f"{GUIDANCE}.linear_2": "guidance_in.out_layer",
            "proj_out": "final_layer.linear",
        }
    ),
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", halves_swapped=True),
}
FLUX_BLOCK: Mapping[str, Place] = {
    **_parts(SELF_ATTENTION, "img_attn.qkv"),
    **_parts(TEXT_ATTENTION, "txt_attn.qkv"),
    **_renamed(
        {
            "attn.to_out.0": "img_attn.proj",
            "attn.to_add_out": "txt_attn.proj",
            "ff.net.0.proj": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
            "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin",
        }
    ),
}
FLUX_SINGLE_BLOCK: Mapping[str, Place] = {
    **_parts((*SELF_ATTENTION, "proj_mlp"), "linear1", QKV_MLP),
    **_renamed({"proj_out": "linear2", "norm.linear": "modulation.lin"}),
}

SDXL_OUTER: Mapping[str, str] = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SDXL_RESIDUAL: Mapping[str, str] = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def sd3_place(names: Sequence[str]) -> dict[str, Place]:
    """Return the place of each layer in MMDiT; ValueError names the layers without one."""
    blocks = {"transformer_blocks": ("joint_blocks", SD3_BLOCK)}
    return _known({name: _transformer_place(name, SD3_OUTER, blocks) for name in names}, "SD3")


def flux_place(names: Sequence[str]) -> dict[str, Place]:
    """Return the place of each layer in the authors' FLUX; ValueError names the layers without one."""
    blocks = {
        "transformer_blocks": ("double_blocks", FLUX_BLOCK),
        "single_transformer_blocks": ("single_blocks", FLUX_SINGLE_BLOCK),
    }
    return _known({name: _transformer_place(name, FLUX_OUTER, blocks) for name in names}, "FLUX")


def sdxl_place(names: Sequence[str]) -> dict[str, Place]:
    """Return the place of each layer in sgm's UNet; ValueError names the layers without one.

    The number of a block there depends on the layers per block, so a UNet with another number than SDXL's is refused.
    """
    for found, layers in ((_layers_seen(names, "down_blocks"), 0), (_layers_seen(names, "up_blocks"), 1)):
        if found not in (0, SDXL_LAYERS + layers):
            raise ValueError(
                f"kohya's layout of SDXL has {SDXL_LAYERS} layers per block, but this adapter is of a UNet with"
                f" {found - layers}. Export it as diffusers or comfyui."
            )
    return _known({name: _unet_place(name) for name in names}, "SDXL")


def _layers_seen(names: Sequence[str], side: str) -> int:
    """Count the layers of the longest block on one side, by the numbers in the names; 0 where none is adapted."""
    found = (re.match(rf"{side}\.\d+\.(?:attentions|resnets)\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _transformer_place(
    name: str, outer: Mapping[str, Place], blocks: Mapping[str, tuple[str, Mapping[str, Place]]]
) -> Place | None:
    if name in outer:
        return outer[name]
    kind, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    other, places = blocks.get(kind, ("", {}))
    if inner not in places:
        return None
    own = places[inner]
    return Place(f"{other}.{number}.{own.name}", own.index, own.widths, own.halves_swapped)


def _unet_place(name: str) -> Place | None:
    if name in SDXL_OUTER:
        return Place(SDXL_OUTER[name])
    match = re.fullmatch(r"(down_blocks\.|up_blocks\.|mid_block)(\d*)\.(\w+)\.(\d+)\.(.+)", name)
    if match is None:
        return None
    side, block, kind, layer, inner = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    prefix = _unet_block(side, block, kind, layer)
    if kind == "resnets":
        inner = SDXL_RESIDUAL.get(inner, "")
    elif kind == "downsamplers":
        inner = "op"
    return Place(f"{prefix}.{inner}") if prefix and inner else None


def _unet_block(side: str, block: int, kind: str, layer: int) -> str:
    """Return the authors' name of a residual layer, an attention, or a change of size; empty for another kind."""
    if side == "mid_block":
        return {"resnets": f"middle_block.{2 * layer}", "attentions": "middle_block.1"}.get(kind, "")
    step = SDXL_LAYERS + 1
    if side == "down_blocks.":
        number = step * block + layer + 1
        places = {"resnets": f"{number}.0", "attentions": f"{number}.1", "downsamplers": f"{step * (block + 1)}.0"}
        return f"input_blocks.{places[kind]}" if kind in places else ""
    number = step * block + layer
    places = {"resnets": f"{number}.0", "attentions": f"{number}.1", "upsamplers": f"{step * block + SDXL_LAYERS}.2"}
    return f"output_blocks.{places[kind]}" if kind in places else ""


def _known(places: Mapping[str, Place | None], model: str) -> dict[str, Place]:
    unknown = [name for name, place in places.items() if place is None]
    if unknown:
        raise ValueError(
            f"The layout of {model} in kohya's scripts has no layer for {', '.join(unknown[:3])}"
            f"{f' and {len(unknown) - 3} more' if unknown[3:] else ''}. Export the adapter as diffusers or comfyui."
        )
    return {name: place for name, place in places.items() if place is not None}
