"""Bases with the published configurations and random weights, and feature caches of random latents. No network."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.catalogues.published import published_bases

PAIRS = 16
TINY: dict[str, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 768,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 8,
    },
    "sdxl": {
        "block_out_channels": [16, 32],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [2, 4],
        "transformer_layers_per_block": [1, 1],
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 8,
    },
    "sd35_medium": {
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 16,
        "dual_attention_layers": [0],
        "sample_size": 8,
    },
    "flux1_dev": {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "axes_dims_rope": [4, 6, 6],
    },
}
"""Changes that make a denoiser small enough to rehearse on a CPU; text and latents keep their widths."""
RESOLUTIONS = {"sd15": 512, "sdxl": 1024, "sd35_medium": 1024, "flux1_dev": 1024}
TINY_RESOLUTION = 64
TEXT = {"stable_diffusion": (77, 0), "sdxl": (77, 1280), "sd3": (333, 2048), "flux": (512, 768)}
"""Tokens and width of the pooled state."""


def digest(text: str) -> str:
    """Return a digest that stands for a folder among the inputs."""
    return hashlib.sha256(text.encode()).hexdigest()


def family_of(base: str) -> str:
    """Return the backbone's name."""
    return published_bases()[base].family


def config_of(base: str, *, tiny: bool) -> dict[str, Any]:
    """Return the denoiser's configuration."""
    return published_bases()[base].config | (TINY[base] if tiny else {})


def resolution_of(base: str, *, tiny: bool) -> int:
    """Return the side of the training images in pixels."""
    return TINY_RESOLUTION if tiny else RESOLUTIONS[base]


def stand_in(inputs: Path, base: str, *, tiny: bool) -> None:
    """Write a base folder whose weight files are empty, and a feature cache of random latents for it."""
    folder = inputs / digest(f"base {base}")
    if folder.exists():
        return
    family = family_of(base)
    part = "unet" if family in ("stable_diffusion", "sdxl") else "transformer"
    encoders = {"stable_diffusion": 1, "sdxl": 2, "sd3": 3, "flux": 2}[family]
    names = [f"text_encoder{'' if number == 1 else f'_{number}'}" for number in range(1, encoders + 1)]
    vae = {"latent_channels": channels(family), "block_out_channels": [1, 1, 1, 1]}
    files: dict[str, Any] = {
        "model_index.json": {},
        "scheduler/scheduler_config.json": _scheduler(family),
        f"{part}/config.json": config_of(base, tiny=tiny),
        "vae/config.json": vae,
    }
    files |= {f"{name}/config.json": {} for name in names}
    files |= {f"{name.replace('text_encoder', 'tokenizer')}/tokenizer.json": {} for name in names}
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    weights = [f"{part}/diffusion_pytorch_model", "vae/diffusion_pytorch_model", *(f"{name}/model" for name in names)]
    for name in weights:
        (folder / f"{name}.safetensors").touch()
    _random_cache(inputs, base, tiny=tiny)


def channels(family: str) -> int:
    """Return the channels of a latent."""
    return 16 if family in ("sd3", "flux") else 4


def _scheduler(family: str) -> dict[str, Any]:
    if family in ("sd3", "flux"):
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    return {"_class_name": "DDPMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _random_cache(inputs: Path, base: str, *, tiny: bool) -> None:
    import torch

    from alignment.files.tensors import write_tensors

    family, config, resolution = family_of(base), config_of(base, tiny=tiny), resolution_of(base, tiny=tiny)
    side, cache = resolution // 8, inputs / digest(f"cache {base}")
    shape = (PAIRS, channels(family), side, side)
    caption = torch.arange(1, PAIRS + 1)
    pairs: dict[str, Any] = {"caption_chosen_B": caption, "caption_rejected_B": caption}
    for which in ("chosen", "rejected"):
        pairs[f"{which}_mean_BCHW"] = torch.randn(shape)
        pairs[f"{which}_std_BCHW"] = torch.full(shape, 0.01)
        if family == "sdxl":
            size = float(resolution)
            pairs[f"{which}_image_time_ids_K"] = torch.tensor([size, size, 0.0, 0.0, size, size]).repeat(PAIRS, 1)
    tokens, pooled = TEXT[family]
    width = int(config.get("joint_attention_dim") or config["cross_attention_dim"])
    text = {"states_LD": torch.randn(PAIRS + 1, tokens, width)}
    if pooled:
        text["pooled_D"] = torch.randn(PAIRS + 1, pooled)
    for folder, tensors in (("pairs", pairs), ("text", text)):
        (cache / folder).mkdir(parents=True)
        write_tensors(cache / folder / "00000.safetensors", tensors)
    index = {
        "spec": {
            "snapshot_digest": digest("snapshot"),
            "base_digest": digest(f"base {base}"),
            "backbone": {"name": family, "resolution": resolution},
            "shard_pairs": PAIRS,
        },
        "num_pairs": PAIRS,
        "num_captions": PAIRS + 1,
        "latent_shape": shape[1:],
    }
    (cache / "index.json").write_text(json.dumps(index), encoding="utf-8")


@contextmanager
def random_weights(base: str, device: Any) -> Iterator[None]:
    """Build the denoiser with random weights on the device wherever it would be read from its folder."""
    import torch

    from alignment.backbones.meta_denoiser import denoiser_class

    own: Any = denoiser_class(family_of(base))
    honest = own.__dict__.get("from_pretrained")

    def built(cls: Any, folder: Any, dtype: Any = torch.float32, **_: Any) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                return cls.from_config(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))
        finally:
            torch.set_default_dtype(before)

    own.from_pretrained = classmethod(built)
    try:
        yield
    finally:
        if honest is None:
            del own.from_pretrained
        else:
            own.from_pretrained = honest


# --- whole pipelines, for the peer and for drawing --------------------------------------------------------------------


def whole_pipeline(folder: Path, base: str, *, tiny: bool) -> Path:
    """Save a whole random pipeline of SD1.5 or SDXL, with its text encoders and VAE; return its folder."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from alignment.backbones.meta_denoiser import denoiser_class
    from alignment.rewards.clip_vocabulary import clip_tokenizer

    if folder.exists():
        return folder
    own: Any = denoiser_class(family_of(base))
    large, small = _clip(1280, 32, 20, tiny=tiny), _clip(768, 12, 12, tiny=tiny)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        unet = own.from_config(config_of(base, tiny=tiny))
        vae = AutoencoderKL(**_vae(base, tiny=tiny))
        encoder = CLIPTextModel(CLIPTextConfig(**small, hidden_act="quick_gelu"))
        second = CLIPTextModelWithProjection(CLIPTextConfig(**large, projection_dim=1280)) if base == "sdxl" else None
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    parts: dict[str, Any] = {"vae": vae, "text_encoder": encoder, "tokenizer": clip_tokenizer(), "unet": unet}
    pipeline: Any
    if second is None:
        checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, scheduler=scheduler, **checker)
    else:
        pipeline = StableDiffusionXLPipeline(
            **parts, scheduler=scheduler, text_encoder_2=second, tokenizer_2=clip_tokenizer()
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name, module in (("text_encoder", encoder), ("text_encoder_2", second)):
        _name_class(folder / name / "config.json", module)
    return folder


def _name_class(path: Path, module: Any) -> None:
    """State the class of a text encoder in its configuration, which the peer's script reads."""
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["architectures"] = [type(module).__name__]
        path.write_text(json.dumps(config), encoding="utf-8")


def _clip(width: int, layers: int, heads: int, *, tiny: bool) -> dict[str, Any]:
    return {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
        "hidden_size": width,
        "intermediate_size": 32 if tiny else 4 * width,
        "num_hidden_layers": 3 if tiny else layers,
        "num_attention_heads": heads,
    }


def _vae(base: str, *, tiny: bool) -> dict[str, Any]:
    return {
        "block_out_channels": (8, 8, 8, 8) if tiny else (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1 if tiny else 2,
        "latent_channels": 4,
        "norm_num_groups": 4 if tiny else 32,
        "sample_size": resolution_of(base, tiny=tiny),
        "scaling_factor": 0.13025 if base == "sdxl" else 0.18215,
    }
