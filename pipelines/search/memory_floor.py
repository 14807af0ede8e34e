"""Estimate the least memory of a training run at any batch size, from the shapes of the base's weights. Torch-free.

A lower bound, exact for what it counts: weights, reference copy, gradients and optimiser states, all float32 as the
loop keeps them. Activations, the autocast copies of weights, libraries and the allocator's reserve come on top; those
are measured by running, not estimated here.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from alignment.contracts.training import FullFineTune, Lora, Recipe
from alignment.contracts.values import Record
from alignment.files.shards import indexed_files

Shapes = Mapping[str, tuple[int, ...]]
"""Maps the name of a tensor to its shape."""

FLOAT32_BYTES = 4
ADAMW_STATES = 2
MOST_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors format allows."""
DENOISERS = ("unet", "transformer")
"""Folder of the denoiser in a base of each family."""


class _MemoryFloor(Record):
    """Bytes by purpose."""

    weights: int
    reference: int
    """A frozen copy; adapters need none, since the reference is the same weights with the adapter off."""
    gradients: int
    optimiser: int

    @property
    def gib(self) -> float:
        """Return the sum in GiB."""
        return (self.weights + self.reference + self.gradients + self.optimiser) / 2**30


def memory_floor(recipe: Recipe, shapes: Shapes) -> _MemoryFloor:
    """Return the lower bound of a recipe on a denoiser of these shapes."""
    denoiser = sum(math.prod(shape) for shape in shapes.values())
    full = isinstance(recipe.tuning, FullFineTune)
    adapter = 0 if isinstance(recipe.tuning, FullFineTune) else _lora_parameters(recipe.tuning, shapes)
    trained = denoiser if full else adapter
    copied = denoiser if full and recipe.objective.needs_reference else 0
    return _MemoryFloor(
        weights=FLOAT32_BYTES * (denoiser + adapter),
        reference=FLOAT32_BYTES * copied,
        gradients=FLOAT32_BYTES * trained,
        optimiser=FLOAT32_BYTES * ADAMW_STATES * trained,
    )


def _lora_parameters(tuning: Lora, shapes: Shapes) -> int:
    """Count the adapters' weights: rank x (inputs + outputs) of each matrix whose module has a target's name.

    A convolution's A has the kernel's size, its B is 1 x 1.
    """
    total = 0
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if kind != "weight" or len(shape) < 2:
            continue
        if any(module == target or module.endswith(f".{target}") for target in tuning.target_modules):
            total += tuning.rank * (math.prod(shape[1:]) + shape[0])
    return total


def denoiser_shapes(base_dir: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the denoiser's weights in a base model's folder; ValueError when it has none."""
    folder = next((base_dir / part for part in DENOISERS if (base_dir / part).is_dir()), base_dir / DENOISERS[0])
    files = _weight_files(folder)
    if not files:
        raise ValueError(f"{folder} contains no safetensors weights. Copy the base model again.")
    return {name: shape for file in files for name, shape in _read_shapes(file).items()}


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a safetensors file from its header alone; ValueError when it is not one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise ValueError(f"its header says {length} bytes")
            entries = json.loads(file.read(length))
        return {name: tuple(entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {error}. Copy the base model again.") from error


def _weight_files(folder: Path) -> list[Path]:
    """Return one set of weights: the files that an index names, else the plain file. Other variants may lie beside
    them.
    """
    for index in sorted(folder.glob("diffusion_pytorch_model.safetensors.index.json")):
        return indexed_files(index)
    return sorted(folder.glob("diffusion_pytorch_model.safetensors"))
