"""Convert published files of each kind of judge to its folder. Each function fills a draft; the job publishes it."""

import shutil
from pathlib import Path

from transformers import AutoTokenizer

from alignment.conversion.catalogue import ImportRequest
from alignment.conversion.checkpoints import Weights, float32, read_checkpoint, require
from alignment.conversion.hpsv3 import read_instruction, write_hpsv3
from alignment.conversion.imagereward import bert_tokenizer, write_imagereward
from alignment.conversion.open_clip import write_clip
from alignment.files.durable import write_json
from alignment.files.tensors import write_tensors
from alignment.rewards.affine_head import AffineHead
from alignment.rewards.clip_head import EMBEDDER_DIR, HEAD_FILE, WEIGHTS_FILE, HeadParams
from alignment.rewards.hpsv3 import REWARD_TOKEN
from alignment.rewards.judge_files import read_json

CLIP_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CLIP_SIDE_FILES = (
    *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    "special_tokens_map.json",
)
TOKENIZERS = ("tokenizer.json", "merges.txt")
VIT_H_HEADS = 16


def weights_files(request: ImportRequest) -> list[Path]:
    """List the weights files that an import reads: --source itself, the weights in its folder, and those of a CLIP."""
    source = Path(request.source)
    files = [_clip_weights(source)] if source.is_dir() else [source]
    if request.kind in ("aesthetic_v1", "aesthetic_v2", "clip_head") and request.base:
        files.append(_clip_weights(Path(request.base)))
    return files


def import_clip(request: ImportRequest, draft: Path) -> None:
    """Import a CLIP in transformers' layout, with its weights as safetensors in float32."""
    _copy_clip(Path(request.source), Path(request.base) if request.base else None, draft)


def import_hpsv2(request: ImportRequest, draft: Path) -> None:
    """Import open_clip's ViT-H-14. It ships without a tokenizer and uses CLIP's published one."""
    write_clip(read_checkpoint(Path(request.source)), draft, vision_heads=VIT_H_HEADS, text_heads=VIT_H_HEADS)


def import_imagereward(request: ImportRequest, draft: Path) -> None:
    """Import BLIP and the head, with BERT's tokenizer."""
    tokenizer = bert_tokenizer(_base(request))
    write_imagereward(read_checkpoint(Path(request.source)), draft, tokenizer=tokenizer)


def import_head(request: ImportRequest, draft: Path) -> None:
    """Import linear layers, together with the CLIP whose embeddings they read."""
    weights = float32(read_checkpoint(Path(request.source)))
    head = AffineHead.from_weights(weights, Path(request.source), request.activation)
    _copy_clip(_base(request), None, draft / EMBEDDER_DIR)
    width = read_json(draft / EMBEDDER_DIR / "config.json").get("projection_dim", 512)
    expected = width * (2 if request.reads == "image_text" else 1)
    if head.width != expected:
        raise ValueError(
            f"The head of {request.source} reads embeddings of width {head.width}, but those of {request.base} have"
            f" width {expected}. Pass the CLIP that the head was trained on as --base."
        )
    write_tensors(draft / WEIGHTS_FILE, weights)
    params = HeadParams(activation=request.activation, reads=request.reads)
    write_json(draft / HEAD_FILE, params.model_dump(mode="json"))


def import_hpsv3(request: ImportRequest, draft: Path) -> None:
    """Import HPSv3: Qwen2-VL's config and tokenizer with the weights' extra token, and the rubric from --template."""
    base = _base(request)
    instruction = read_instruction(Path(str(request.template)))
    config = read_json(base / "config.json")
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
    weights = read_checkpoint(Path(request.source))
    require(weights, ("model.embed_tokens.weight",), "HPSv3.safetensors")
    if len(weights["model.embed_tokens.weight"]) < len(tokenizer):
        raise ValueError(
            f"{request.source} has {len(weights['model.embed_tokens.weight'])} token embeddings, but the tokenizer of"
            f" {base} has {len(tokenizer)} tokens. Pass the folder of Qwen2-VL-7B-Instruct as --base."
        )
    write_hpsv3(weights, draft, config=config, instruction=instruction)
    tokenizer.save_pretrained(draft)


def _copy_clip(source: Path, side_files: Path | None, draft: Path) -> None:
    """Copy config.json, weights, tokenizer and processor; the last two from `side_files` if the source lacks them."""
    weights_path = _clip_weights(source)
    weights: Weights = read_checkpoint(weights_path)
    require(weights, ("text_projection.weight", "visual_projection.weight", "logit_scale"), "a CLIP with both towers")
    draft.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "config.json", draft / "config.json")
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
    write_tensors(draft / "model.safetensors", float32(kept))
    for folder in (side_files, source):
        for name in CLIP_SIDE_FILES:
            if folder is not None and (folder / name).is_file():
                shutil.copy(folder / name, draft / name)
    missing = [] if (draft / "preprocessor_config.json").is_file() else ["preprocessor_config.json"]
    if not any((draft / name).is_file() for name in TOKENIZERS):
        missing.append("tokenizer.json")
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}. Pass a folder that has them as --base.")


def _clip_weights(folder: Path) -> Path:
    found = [folder / name for name in CLIP_WEIGHTS if (folder / name).is_file()]
    if not found or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a CLIP in transformers' layout: it needs config.json and {CLIP_WEIGHTS[0]}.")
    return found[0]


def _base(request: ImportRequest) -> Path:
    return Path(str(request.base))
