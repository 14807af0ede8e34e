"""Shared code of judge replays: recorded images, weights by prefix, tolerances, a judge's folder."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from recorded import Case
from safetensors.torch import save_file
from torch import Tensor

CPU = torch.device("cpu")
NO_DIGEST = "0" * 64


def pictures(case: Case) -> list[Image.Image]:
    """Return every `image_N` of the inputs, in order; 8-bit, channels first or last."""
    found = [name for name in case.fields if re.fullmatch(r"inputs\.image_\d+", name)]
    return [_picture(case[name]) for name in sorted(found, key=lambda name: int(name.rpartition("_")[2]))]


def _picture(pixels: Tensor) -> Image.Image:
    if pixels.dtype != torch.uint8:
        raise ValueError(f"A recorded image has dtype {pixels.dtype}; it must have 8-bit values.")
    rows = pixels if pixels.shape[-1] == 3 else pixels.permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(rows.numpy()))


def weights(case: Case, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of the weights file whose names start with the prefix, with the prefix removed."""
    start = f"weights.{prefix}"
    return {name.removeprefix(start): tensor for name, tensor in case.tensors.items() if name.startswith(start)}


def tolerance(case: Case, name: str, default: float = 1e-5) -> float:
    """Return the case's tolerance for a kind of number."""
    stated = case.params.get("tolerance", {})
    return float(stated.get(name, default) if isinstance(stated, dict) else stated)


def all_with_all(images: list[Image.Image], prompts: list[str]) -> tuple[list[Image.Image], list[str]]:
    """Combine every prompt with every image, prompt by prompt."""
    return images * len(prompts), [prompt for prompt in prompts for _ in images]


def write_clip_folder(
    folder: Path, *, config: dict[str, Any], processor: dict[str, Any], state: dict[str, Any]
) -> None:
    """Write a CLIP in transformers' layout, with the published tokenizer."""
    from alignment.rewards.clip_vocabulary import clip_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"} | config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    clip_tokenizer().save_pretrained(folder)
