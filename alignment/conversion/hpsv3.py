"""Convert HPSv3.safetensors, with the names of transformers 4.45, to a folder that `HpsV3Scorer` loads."""

import ast
from pathlib import Path
from typing import Any

from alignment.conversion.checkpoints import Weights, require
from alignment.files.durable import write_bytes, write_json
from alignment.files.tensors import write_tensors
from alignment.rewards.hpsv3 import HEAD_FILE, INSTRUCTION_FILE, PROMPT, REWARD_TOKEN

NEEDED = ("model.embed_tokens.weight", "visual.patch_embed.proj.weight", "rm_head.0.weight")
CONSTANTS = ("INSTRUCTION", "prompt_with_special_token")
"""Constants of the authors' module: the rubric, and the sentence that holds the reward token."""


def write_hpsv3(weights: Weights, folder: Path, *, config: dict[str, Any], instruction: str) -> None:
    """Write weights, head, config and rubric; the caller copies the tokenizer. The dtype of the file is kept."""
    require(weights, NEEDED, "HPSv3.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", _to_transformers(weights))
    head = {name.removeprefix("rm_head."): tensor for name, tensor in weights.items() if name.startswith("rm_head.")}
    write_tensors(folder / HEAD_FILE, head)
    write_json(folder / "config.json", _fitted_config(config, len(weights["model.embed_tokens.weight"])))
    write_bytes(folder / INSTRUCTION_FILE, _checked_instruction(instruction).encode())


def _to_transformers(weights: Weights) -> Weights:
    """Rename to current transformers names. The language head does not affect the score and is dropped."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        if name.startswith("model."):
            renamed[f"language_model.{name.removeprefix('model.')}"] = tensor
        elif name.startswith("visual."):
            renamed[name] = tensor
    return renamed


def _fitted_config(config: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """Return Qwen2-VL's config with the vocabulary size of the weights, which have one more token for the reward."""
    fitted = config | {"vocab_size": vocabulary, "architectures": ["Qwen2VLModel"], "tie_word_embeddings": False}
    if isinstance(config.get("text_config"), dict):
        fitted["text_config"] = config["text_config"] | {"vocab_size": vocabulary}
    return fitted


def read_instruction(path: Path) -> str:
    """Read the rubric from a text file, or from the authors' module (data_collator_qwen.py), which is never run.

    The weights were trained on its exact wording and white space, so it is taken from the published file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return _constants(text) if path.suffix == ".py" else _checked_instruction(text)
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise ValueError(f"The rubric {path} cannot be read: {error}.") from error


def _constants(source: str) -> str:
    """The two string constants of a Python module, concatenated."""
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in CONSTANTS and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                found[name] = node.value.value
    missing = [name for name in CONSTANTS if name not in found]
    if missing:
        raise ValueError(f"The module has no text {', '.join(missing)}. Use HPSv3's data_collator_qwen.py.")
    return _checked_instruction("".join(found[name] for name in CONSTANTS))


def _checked_instruction(text: str) -> str:
    """Return the rubric. ValueError unless it holds the marks for prompt and reward once each."""
    for mark in (PROMPT, REWARD_TOKEN):
        if text.count(mark) != 1:
            raise ValueError(f"The rubric must contain {mark} once, but contains it {text.count(mark)} times.")
    return text
