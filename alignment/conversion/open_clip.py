"""Convert a CLIP in open_clip's layout to a folder in transformers' layout.

open_clip stores query, key and value in one matrix, and projections transposed. Apart from names, nothing else differs.
"""

from pathlib import Path

from torch import Tensor

from alignment.conversion.checkpoints import Weights, float32, require
from alignment.files.durable import write_json
from alignment.files.tensors import write_tensors
from alignment.rewards.clip_vocabulary import clip_tokenizer

NEEDED = ("visual.conv1.weight", "visual.proj", "positional_embedding", "text_projection", "logit_scale")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LARGEST_TOKEN = 2
"""End token of the config. With 2, transformers pools at the largest token number, as open_clip always does."""

_PARTS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "transformer.resblocks": "text_model.encoder.layers",
    "logit_scale": "logit_scale",
}
_INSIDE = {
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def write_clip(weights: Weights, folder: Path, *, vision_heads: int, text_heads: int, activation: str = "gelu") -> None:
    """Write a folder that `ClipModel` loads. Sizes follow from the weights; numbers of heads do not, so pass them.

    `activation` is gelu in LAION's ViT-H and quick_gelu in OpenAI's models. ValueError for weights of another layout.
    """
    require(weights, NEEDED, "a CLIP in open_clip's layout")
    config = _clip_config(weights, vision_heads=vision_heads, text_heads=text_heads, activation=activation)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", float32(_to_transformers(weights)))
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", _clip_processor(config["vision_config"]["image_size"]))  # type: ignore[index]
    clip_tokenizer().save_pretrained(folder)


def _to_transformers(weights: Weights) -> Weights:
    """Rename the tensors to transformers' names. ValueError names a tensor that CLIP does not have."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        if name in ("visual.proj", "text_projection"):
            side = "visual" if name == "visual.proj" else "text"
            renamed[f"{side}_projection.weight"] = tensor.T
        elif ".attn.in_proj_" in name:
            renamed |= _query_key_value(name, tensor)
        elif name != "attn_mask":
            renamed[_renamed(name)] = tensor
    return renamed


def _renamed(name: str) -> str:
    for ours, theirs in _PARTS.items():
        if name == ours or name.startswith(f"{ours}."):
            new = theirs + name.removeprefix(ours)
            for inside, replacement in _INSIDE.items():
                new = new.replace(inside, replacement)
            return new
    raise ValueError(f"A CLIP has no tensor {name}. Use a checkpoint of open_clip's `CLIP` class.")


def _query_key_value(name: str, tensor: Tensor) -> Weights:
    """Split one matrix, or bias, of query, key and value into three."""
    block, _, part = name.partition(".attn.in_proj_")
    layer = _renamed(f"{block}.")
    return {
        f"{layer}self_attn.{letter}_proj.{part}": piece for letter, piece in zip("qkv", tensor.chunk(3), strict=True)
    }


def _clip_config(weights: Weights, *, vision_heads: int, text_heads: int, activation: str) -> dict[str, object]:
    """Return transformers' config.json for these weights."""
    vision_width, _, patch, _ = weights["visual.conv1.weight"].shape
    positions = weights["visual.positional_embedding"].shape[0] - 1
    length, text_width = weights["positional_embedding"].shape
    embedding = weights["text_projection"].shape[1]
    shared = {"hidden_act": activation, "projection_dim": embedding, "layer_norm_eps": 1e-5}
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": embedding,
        "text_config": {
            **shared,
            "hidden_size": text_width,
            "intermediate_size": weights["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _num_layers(weights, "transformer."),
            "num_attention_heads": text_heads,
            "max_position_embeddings": length,
            "vocab_size": weights["token_embedding.weight"].shape[0],
            "eos_token_id": LARGEST_TOKEN,
        },
        "vision_config": {
            **shared,
            "hidden_size": vision_width,
            "intermediate_size": weights["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _num_layers(weights, "visual.transformer."),
            "num_attention_heads": vision_heads,
            "image_size": int(positions**0.5) * patch,
            "patch_size": patch,
        },
    }


def _num_layers(weights: Weights, prefix: str) -> int:
    start = f"{prefix}resblocks."
    return 1 + max(int(name.removeprefix(start).partition(".")[0]) for name in weights if name.startswith(start))


def _clip_processor(size: int) -> dict[str, object]:
    """Return transformers' preprocessor_config.json of a CLIP: resize the shortest side, bicubic, centre crop."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }
