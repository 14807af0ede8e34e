"""Which files a base model's folder must hold, and one error that names all it lacks. No torch here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.files.shards import indexed_files

MODEL_INDEX = "model_index.json"
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""Sets of files of which a tokenizer's folder must hold one whole."""


@dataclass(frozen=True)
class WeightFile:
    """A file that must be there. A name without suffix stands for safetensors weights, in one file or in parts."""

    name: str

    def present(self, folder: Path) -> bool:
        """Return True if the folder has it, every part included. ValueError when the index names a path outside."""
        if Path(self.name).suffix:
            return (folder / self.name).is_file()
        whole, index = (folder / f"{self.name}{end}" for end in (".safetensors", ".safetensors.index.json"))
        parts = indexed_files(index) if index.is_file() else []
        return whole.is_file() or (index.is_file() and all(part.is_file() for part in parts))

    def __str__(self) -> str:
        return self.name if Path(self.name).suffix else f"{self.name}.safetensors"


def require_files(folder: Path, files: Sequence[WeightFile], missing_already: Sequence[str] = ()) -> None:
    """ValueError naming every file that is not there."""
    missing = [str(file) for file in files if not file.present(folder)] + list(missing_already)
    if missing:
        raise ValueError(
            f"The model folder {folder} lacks {', '.join(missing)}. It needs diffusers' layout with "
            "safetensors weights; download or convert it again (save_pretrained with safe_serialization=True)."
        )


def require_parts(base_dir: Path, denoiser: str, *, text_encoders: Sequence[str], tokenizers: Sequence[str]) -> None:
    """ValueError naming every file that a pipeline of these parts needs and the folder lacks."""
    names = [MODEL_INDEX, "scheduler/scheduler_config.json"]
    names += [f"{part}/{file}" for part in (denoiser, "vae") for file in ("config.json", "diffusion_pytorch_model")]
    names += [f"{part}/{file}" for part in text_encoders for file in ("config.json", "model")]
    lacking = [name for name in tokenizers if not _has_tokenizer(base_dir / name)]
    require_files(
        base_dir,
        [WeightFile(name) for name in names],
        [f"{name}/tokenizer.json (or vocab.json with merges.txt)" for name in lacking],
    )


def absent_parts(base_dir: Path) -> set[str]:
    """Parts that a base says it does without: those whose class in model_index.json is null. None without an index."""
    index = base_dir / MODEL_INDEX
    if not index.is_file():
        return set()
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{index} is not JSON: {error}. Copy the base model again.") from error
    return {name for name, entry in parts.items() if isinstance(entry, list) and not any(entry)}


def _has_tokenizer(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES)
