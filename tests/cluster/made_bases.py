"""Configurations of base models without weights: those of the published families, and tiny ones."""

import json
from pathlib import Path
from typing import Any

UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [1, 2, 3, 4], "latent_channels": 4}
SD: dict[str, Any] = {**UNET, "sample_size": 64, "cross_attention_dim": 768}
XL: dict[str, Any] = {**UNET, "sample_size": 128, "cross_attention_dim": 2048, "addition_time_embed_dim": 256}
XL |= {"projection_class_embeddings_input_dim": 2816}
SD3: dict[str, Any] = {"_class_name": "SD3Transformer2DModel", "in_channels": 16, "out_channels": 16}
SD3 |= {"sample_size": 128, "joint_attention_dim": 4096, "pooled_projection_dim": 2048}
FLUX: dict[str, Any] = {"_class_name": "FluxTransformer2DModel", "in_channels": 64, "out_channels": None}
FLUX |= {"joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True}


def make_base(folder: Path, denoiser: dict[str, Any], **vae: Any) -> Path:
    """Write the configurations of a base; `vae` replaces fields of the VAE's."""
    part = "unet" if denoiser["_class_name"] == UNET["_class_name"] else "transformer"
    index: dict[str, Any] = {"_class_name": "Any", part: ["diffusers", denoiser["_class_name"]]}
    if "addition_time_embed_dim" in denoiser:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    for name, content in {
        "model_index.json": index,
        f"{part}/config.json": denoiser,
        "vae/config.json": {**VAE, **vae},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder
