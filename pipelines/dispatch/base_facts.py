"""Facts of a base model from the configurations in its folder: family, resolution, size of its features. Torch-free."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.catalogues.backbones import BACKBONES, Backbone
from alignment.config import validate
from alignment.contracts.values import NumberFormat, Record
from pipelines.dispatch.model_folders import MODEL_INDEX, is_here, local_folder
from pipelines.workspace import Workspace

__all__ = ["BaseFacts", "base_facts", "licence_of", "read_base_facts"]

_FAMILIES: Mapping[str, str] = {
    "UNet2DConditionModel": "stable_diffusion",
    "SD3Transformer2DModel": "sd3",
    "FluxTransformer2DModel": "flux",
}
"""Class of the denoiser to the family. A UNet with a second text encoder is SDXL's."""
_SUPPORTED = "Stable Diffusion 1.x and 2.x, SDXL, SD3, SD3.5 and FLUX.1"
_FLOAT32, _BFLOAT16 = 4, 2
_CLIP_TOKENS = 77
_USUAL_CHANNELS = {"stable_diffusion": 4, "sdxl": 4, "sd3": 16, "flux": 16}
_USUAL_TEXT_BYTES = {"stable_diffusion": 236_544, "sdxl": 635_904, "sd3": 2_736_128, "flux": 4_197_376}
"""Text states of one caption with the published weights; see `_text_bytes`."""
_USUAL_VAE_FACTOR = 8


class BaseFacts(Record):
    """Facts of a base model."""

    backbone: Backbone
    latent_shape: tuple[int, int, int]
    """C, H, W of the latent of a training image."""
    text_bytes: int
    """Size of the text states of one caption in a feature cache."""

    def feature_bytes(self, num_pairs: int, num_captions: int, moments: NumberFormat = "fp32") -> int:
        """Return the size of the features of pairs: mean and standard deviation of both latents in the number format
        `moments`, and text states of each distinct caption.
        """
        channels, height, width = self.latent_shape
        item_bytes = _FLOAT32 if moments == "fp32" else _BFLOAT16
        return num_pairs * 2 * 2 * channels * height * width * item_bytes + num_captions * self.text_bytes


def read_base_facts(folder: Path) -> BaseFacts:
    """Read the facts from the configurations of a folder in diffusers' layout; weights are not needed.

    The resolution is the denoiser's sample size times the VAE's reduction; FLUX's denoiser states none, so it is the
    VAE's sample size. ValueError for a folder that is none, or a model of another family.
    """
    index = _read_json(folder / MODEL_INDEX)
    part = "transformer" if index.get("transformer") else "unet"
    denoiser, vae = _read_json(folder / part / "config.json"), _read_json(folder / "vae" / "config.json")
    family = _family(index, denoiser, folder)
    channels, factor = int(vae["latent_channels"]), 2 ** (len(vae["block_out_channels"]) - 1)
    usual = {cls.model_fields["name"].default: cls for cls in BACKBONES}[family]
    side = denoiser.get("sample_size") if family != "flux" else None
    resolution = int(side) * factor if side else int(vae.get("sample_size") or usual.model_fields["resolution"].default)
    backbone = validate(usual, {"name": family, "resolution": resolution}, what=f"Base model {folder}")
    return BaseFacts.model_validate(
        {
            "backbone": backbone.model_dump(),
            "latent_shape": (channels, resolution // factor, resolution // factor),
            "text_bytes": _text_bytes(family, denoiser),
        }
    )


def _usual_facts(backbone: Backbone) -> BaseFacts:
    """Return the facts of the published weights of a family, for a base whose folder is not on this host."""
    side = backbone.resolution // _USUAL_VAE_FACTOR
    return BaseFacts(
        backbone=backbone,
        latent_shape=(_USUAL_CHANNELS[backbone.name], side, side),
        text_bytes=_USUAL_TEXT_BYTES[backbone.name],
    )


def base_facts(workspace: Workspace) -> BaseFacts:
    """Return facts of the project's base at the project's resolution: of its folder, else of the published weights."""
    base = workspace.project.base
    if not is_here(base.uri, workspace.settings):
        return _usual_facts(base.backbone)
    facts = read_base_facts(local_folder(base.uri, workspace.settings))
    channels, height, _ = facts.latent_shape
    side = base.backbone.resolution * height // facts.backbone.resolution
    return facts.model_copy(update={"latent_shape": (channels, side, side)})


def licence_of(card: str) -> str:
    """Return the licence that the YAML front matter of a model or data card states; empty when it states none.

    For `license: other` the name of the licence is returned, if the card has one.
    """
    front = re.match(r"\A---\s*\n(.*?)\n---", card, flags=re.DOTALL)
    lines = re.finditer(r"^(license(?:_name)?):[ \t]*(\S.*)$", front[1], flags=re.MULTILINE) if front else ()
    stated = {str(line[1]): str(line[2]).strip().strip("'\"") for line in lines}
    if stated.get("license") == "other":
        return stated.get("license_name", "other")
    return stated.get("license", "")


def _family(index: Mapping[str, Any], denoiser: Mapping[str, Any], folder: Path) -> str:
    name = str(denoiser.get("_class_name"))
    if name not in _FAMILIES:
        raise ValueError(
            f"Base model {folder} has the denoiser {name!r}, which Plumbline cannot train. It trains {_SUPPORTED}."
        )
    channels, expected = denoiser.get("in_channels"), denoiser.get("out_channels") or denoiser.get("in_channels")
    if channels != expected:
        raise ValueError(
            f"Base model {folder}: its denoiser reads {channels} channels and predicts {expected}, as for inpainting or"
            f" editing. Give the text-to-image base. Plumbline trains {_SUPPORTED}."
        )
    family = _FAMILIES[name]
    return "sdxl" if family == "stable_diffusion" and any(index.get("text_encoder_2") or ()) else family


def _text_bytes(family: str, denoiser: Mapping[str, Any]) -> int:
    """Return the size of one caption's text states, from the widths that the denoiser reads.

    UNets: CLIP's states in float32, and SDXL's pooled state, whose width is what six embedded sizes leave.
    Transformers: CLIP's and T5's states in bfloat16, and the pooled state in float32.
    """
    if family in ("stable_diffusion", "sdxl"):
        pooled = int(denoiser.get("projection_class_embeddings_input_dim") or 0) - 6 * int(
            denoiser.get("addition_time_embed_dim") or 0
        )
        return (_CLIP_TOKENS * int(denoiser["cross_attention_dim"]) + max(pooled, 0)) * _FLOAT32
    tokens = {"sd3": _CLIP_TOKENS + 256, "flux": 512}[family]
    pooled = int(denoiser["pooled_projection_dim"])
    return tokens * int(denoiser["joint_attention_dim"]) * _BFLOAT16 + pooled * _FLOAT32


def _read_json(path: Path) -> dict[str, Any]:
    """Read a configuration; ValueError when it is missing or is not JSON."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}). A base model is a folder in diffusers' layout, as"
            " `save_pretrained` writes it."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}. Copy the base model again.") from error
    return found
