"""Convert ImageReward.pt, in the layout of its authors' BLIP, to a folder that `ImageRewardScorer` loads."""

import re
from pathlib import Path
from typing import Any

from transformers import BertTokenizer

from alignment.conversion.checkpoints import Weights, float32, require
from alignment.files.durable import write_json
from alignment.files.tensors import write_tensors

NEEDED = ("blip.visual_encoder.pos_embed", "blip.text_encoder.embeddings.word_embeddings.weight", "mlp.layers.0.weight")
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Normalisation constants in the authors' code."""
HEAD_WIDTH = 64
"""Width of an attention head in the published model; it cannot be derived from the weights."""
ADDED_TOKENS = ("[DEC]", "[ENC]")
VISION_EPSILON, TEXT_EPSILON = 1e-6, 1e-12

_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


def write_imagereward(
    weights: Weights, folder: Path, *, tokenizer: Any, vision_heads: int | None = None, text_heads: int | None = None
) -> None:
    """Write the judge's folder. Sizes follow from the weights; heads are 64 wide unless their number is passed."""
    require(weights, NEEDED, "ImageReward.pt")
    config = {
        "vision": _vision_config(weights, vision_heads),
        "text": text_config(weights, text_heads),
        "mean": MEAN,
        "deviation": DEVIATION,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", float32(_to_transformers(weights)))
    write_json(folder / "config.json", config)
    tokenizer.save_pretrained(folder)


def bert_tokenizer(folder: Path) -> Any:
    """Build BERT's tokenizer (bert-base-uncased) with BLIP's two tokens at the end, from a folder with vocab.txt."""
    path = folder / "vocab.txt"
    if not path.is_file():
        raise ValueError(f"{folder} has no vocab.txt. Pass the folder of bert-base-uncased as --base.")
    return _tokenizer_of(path.read_text(encoding="utf-8").splitlines())


def _tokenizer_of(words: list[str]) -> Any:
    """Build a lower-casing tokenizer with these entries, numbered in order."""
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=True)
    tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED_TOKENS)})
    return tokenizer


def _to_transformers(weights: Weights) -> Weights:
    """Rename to transformers' names. The projections of BLIP's contrastive loss do not affect the score: dropped."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        if name.startswith("blip.visual_encoder."):
            renamed[f"vision.{_vision_name(name.removeprefix('blip.visual_encoder.'))}"] = tensor
        elif name.startswith("blip.text_encoder.") and not name.endswith("position_ids"):
            renamed[f"text.{name.removeprefix('blip.text_encoder.')}"] = tensor
        elif name.startswith("mlp."):
            renamed[f"head.{name.removeprefix('mlp.')}"] = tensor
    return renamed


def _vision_name(name: str) -> str:
    for pattern, replacement in _VISION:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    raise ValueError(f"BLIP's vision tower has no tensor blip.visual_encoder.{name}. Use ImageReward.pt as --source.")


def _vision_config(weights: Weights, heads: int | None) -> dict[str, object]:
    """Return the BlipVisionConfig of these weights."""
    prefix = "blip.visual_encoder."
    width, _, patch, _ = weights[f"{prefix}patch_embed.proj.weight"].shape
    positions = weights[f"{prefix}pos_embed"].shape[1] - 1
    return {
        "hidden_size": width,
        "intermediate_size": weights[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _num_layers(weights, f"{prefix}blocks."),
        "num_attention_heads": heads or _num_heads(width),
        "image_size": int(positions**0.5) * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": VISION_EPSILON,
        "attention_dropout": 0.0,
    }


def text_config(weights: Weights, heads: int | None) -> dict[str, object]:
    """Return the BlipTextConfig of these weights. `is_decoder` adds cross-attention; the scorer attends both ways."""
    prefix = "blip.text_encoder."
    vocabulary, width = weights[f"{prefix}embeddings.word_embeddings.weight"].shape
    cross = weights[f"{prefix}encoder.layer.0.crossattention.self.key.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "encoder_hidden_size": cross.shape[1],
        "intermediate_size": weights[f"{prefix}encoder.layer.0.intermediate.dense.weight"].shape[0],
        "num_hidden_layers": _num_layers(weights, f"{prefix}encoder.layer."),
        "num_attention_heads": heads or _num_heads(width),
        "max_position_embeddings": weights[f"{prefix}embeddings.position_embeddings.weight"].shape[0],
        "hidden_act": "gelu",
        "layer_norm_eps": TEXT_EPSILON,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "bos_token_id": None,
        "sep_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        "is_decoder": True,
        "use_cache": False,
    }


def _num_heads(width: int) -> int:
    if width % HEAD_WIDTH:
        raise ValueError(
            f"A width of {width} is not a multiple of the attention head width {HEAD_WIDTH}. Use the published"
            " ImageReward.pt."
        )
    return width // HEAD_WIDTH


def _num_layers(weights: Weights, prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in weights if name.startswith(prefix))
