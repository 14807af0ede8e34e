"""Required files of a captioner's folder, checked on the scheduler before a job and by the job. Torch-free."""

import json
from pathlib import Path
from typing import Any

CAPTIONER_CLASS = "BlipForConditionalGeneration"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_TOKENIZERS = ("tokenizer.json", "vocab.txt")


def check_captioner_files(folder: Path) -> None:
    """Raise ValueError unless the folder has the files of a captioner and its config names the class."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    for names in (_WEIGHTS, _PROCESSORS, _TOKENIZERS):
        if not any((folder / name).is_file() for name in names):
            missing.append(" or ".join(names))
    if missing:
        raise ValueError(
            f"The captioner {folder} lacks {', '.join(missing)}. It needs the files that save_pretrained of"
            f" {CAPTIONER_CLASS} and BlipProcessor write, weights as safetensors."
        )
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is not JSON: {error}. Copy the captioner again.") from error
    if CAPTIONER_CLASS not in (classes := config.get("architectures") or ["no class"]):
        raise ValueError(
            f"The captioner {folder} is of {', '.join(classes)}, but captions come from {CAPTIONER_CLASS}. Use a"
            " folder of that class, e.g. a copy of a BLIP image-captioning model."
        )
