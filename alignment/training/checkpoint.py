"""Checkpoints that are complete or absent, and from which a run resumes exactly, with any number of processes.

    checkpoints/step_000050/
        weights.safetensors      every trainable weight, by name
        optimiser.safetensors    the optimiser's moments and step counts, by weight name
        state.json               `TrainingState`
        manifest.json            sha256 of the other files, written last

A draft is written to a sibling folder, flushed, and renamed; tensors are hashed as they are written. There is no
generator state to save: all randomness is a function of (seed, pair, epoch), and the global generator is seeded again
at every step.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from alignment.contracts.values import Record
from alignment.files.durable import file_sha256, publish_folder, write_json
from alignment.files.paths import resolve_below
from alignment.files.tensors import write_tensors
from alignment.training.adamw8bit import moments_of, plain_tensors
from alignment.training.sharding import own_part, whole

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.json"
WEIGHTS_FILE = "weights.safetensors"
OPTIMISER_FILE = "optimiser.safetensors"
DRAFT = ".draft"


TensorFiles = Mapping[str, Mapping[str, Tensor]]
"""Tensors of a checkpoint, by file and name."""


class TrainingState(Record):
    """Contents of state.json: everything except tensors."""

    spec_digest: str
    step: int
    """Number of completed optimiser steps."""
    next_position: int
    """Number of pairs seen so far, which is the position in the endless stream of shuffled epochs."""
    learning_rate: float
    """Learning rate of the last update; the next one follows from the step."""
    random_streams: Literal["seed/epoch/pair"] = "seed/epoch/pair"
    """Version of the rule that derives randomness from keys."""
    guard_losses: tuple[float, ...]
    guard_spikes: int
    chosen_worse_steps: int = 0
    loss_scale: float = 1.0
    """Factor on the loss of the next step; 1 unless the precision is fp16."""
    loss_scale_steps: int = 0
    sample_keys: tuple[str, ...]
    """`STEP/KEY` of every image that was logged."""


class CheckpointFolder:
    """The checkpoints of one run; the newest few are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: TrainingState, files: TensorFiles, read: Callable[[Tensor], Tensor] = whole) -> Path:
        """Write a checkpoint, then delete the oldest beyond `keep`. On any error the earlier ones stay unchanged.

        `files` are those of `tensor_files`; `read` returns a tensor's values.
        """
        draft = self.folder / DRAFT
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        manifest = {}
        try:
            for name, tensors in files.items():
                digest = hashlib.sha256()
                write_tensors(draft / name, tensors, read=read, digest=digest)
                manifest[name] = digest.hexdigest()
            write_json(draft / STATE_FILE, state.model_dump(mode="json"))
            manifest[STATE_FILE] = file_sha256(draft / STATE_FILE)
            write_json(draft / MANIFEST_FILE, manifest)
            final = self.folder / f"step_{state.step:06d}"
            publish_folder(draft, final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for old in self._present()[self.keep :]:
            shutil.rmtree(old)
        return final

    def newest(self) -> Path | None:
        """Return the newest checkpoint whose files match its manifest; skip damaged ones with a warning."""
        for path in self._present():
            problem = _damage(path)
            if problem is None:
                return path
            logger.warning("checkpoint %s is damaged (%s); trying the previous one", path, problem)
        return None

    def drop_beyond(self, step: int) -> None:
        """Remove checkpoints newer than the one resumed from: they are damaged, and the run writes them again."""
        for path in self._present():
            if _step_of(path) > step:
                shutil.rmtree(path)

    def _present(self) -> list[Path]:
        return sorted(self.folder.glob("step_*"), key=_step_of, reverse=True)


def _damage(path: Path) -> str | None:
    """Describe the fault of a checkpoint folder; None when there is none."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        wrong = [
            name for name, sha256 in manifest.items() if file_sha256(resolve_below(path, name, MANIFEST_FILE)) != sha256
        ]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    lacking = {WEIGHTS_FILE, OPTIMISER_FILE, STATE_FILE} - set(manifest)
    return f"not as written: {', '.join([*wrong, *sorted(lacking)])}" if wrong or lacking else None


def read_state(path: Path) -> TrainingState:
    """Read the state of a checkpoint."""
    return TrainingState.model_validate_json((path / STATE_FILE).read_bytes())


def tensor_files(model: nn.Module, optimiser: torch.optim.Optimizer) -> TensorFiles:
    """Return the tensors of a checkpoint as they are, perhaps in shards, in the order in which they are gathered."""
    files: TensorFiles = {WEIGHTS_FILE: dict(trainable(model)), OPTIMISER_FILE: _moments(model, optimiser)}
    return {file: dict(sorted(tensors.items())) for file, tensors in files.items()}


def gather(files: TensorFiles) -> None:
    """Contribute this process's shards to the checkpoint that another process collects at the same time."""
    for tensors in files.values():
        for tensor in tensors.values():
            whole(tensor)


def restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Load a checkpoint's weights and moments into the model and the optimiser."""
    weights = load_file(path / WEIGHTS_FILE)
    moments = _by_weight(load_file(path / OPTIMISER_FILE))
    with torch.no_grad():
        for name, weight in trainable(model):
            weight.copy_(own_part(weights[name], weight))
            found = moments.get(name, {})
            plain = {key: _in_place(key, tensor, weight) for key, tensor in found.items() if "." not in key}
            optimiser.state[weight] = {**plain, **moments_of(found, weight)}


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """List the weights that the optimiser updates, in the model's order."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def _moments(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{part}:{name}": tensor
        for name, weight in trainable(model)
        for key, value in optimiser.state[weight].items()
        for part, tensor in plain_tensors(key, value).items()
    }


def _by_weight(moments: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Convert the names of `_moments` to weight, then key."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in moments.items():
        key, _, name = full_name.partition(":")
        grouped.setdefault(name, {})[key] = tensor
    return grouped


def _in_place(key: str, tensor: Tensor, weight: Tensor) -> Tensor | int:
    """Adafactor counts steps in a plain integer, AdamW in a tensor on the CPU; moments are where the weight is."""
    if tensor.dtype == torch.int64:
        return int(tensor)
    return tensor.clone() if key == "step" else own_part(tensor, weight)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
