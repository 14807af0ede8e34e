"""Files that the folder of a base or of weights must hold, and one error that names all missing ones. Torch-free."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.files.shards import indexed_files

MODEL_INDEX = "model_index.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_METADATA = "lora_adapter_metadata"
"""Key of the adapter's configuration in the metadata of that file."""
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""Sets of files. A tokenizer's folder must hold at least one complete set."""


@dataclass(frozen=True)
class WeightFile:
    """A required file. A name without suffix means safetensors weights, in one file or in shards."""

    name: str

    def present(self, folder: Path) -> bool:
        """Return True if the folder has it, with every shard. ValueError when the index names a path outside."""
        if Path(self.name).suffix:
            return (folder / self.name).is_file()
        single_file, index = (folder / f"{self.name}{end}" for end in (".safetensors", ".safetensors.index.json"))
        parts = indexed_files(index) if index.is_file() else []
        return single_file.is_file() or (index.is_file() and all(part.is_file() for part in parts))

    def __str__(self) -> str:
        return self.name if Path(self.name).suffix else f"{self.name}.safetensors"


def require_files(folder: Path, files: Sequence[WeightFile], missing_already: Sequence[str] = ()) -> None:
    """Check that every file exists. ValueError naming all that are missing."""
    missing = [str(file) for file in files if not file.present(folder)] + list(missing_already)
    if missing:
        raise ValueError(
            f"The model folder {folder} lacks {', '.join(missing)}. It needs diffusers' layout with "
            "safetensors weights; download or convert it again (save_pretrained with safe_serialization=True)."
        )


def require_parts(base_dir: Path, denoiser: str, *, text_encoders: Sequence[str], tokenizers: Sequence[str]) -> None:
    """Check that the folder has every file of these parts. ValueError naming all that are missing."""
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
    """Return the parts that a base declares absent: class null in model_index.json. Empty if there is no index."""
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
