"""Count the weights of a denoiser, those that a recipe trains, and the optimiser's states of them. Torch-free.

Shapes come from the headers of a base's safetensors files, or from the catalogue of published bases.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from alignment.catalogues.optimisers import BLOCK_8BIT, Adafactor, AdamW, AdamW8bit, has_8bit_moments
from alignment.catalogues.published import WeightGroup
from alignment.contracts.training import FullFineTune, Lora
from alignment.files.shards import indexed_files

Shape = tuple[int, ...]

_FLOAT32 = 4
_LEVELS = 256
"""Values that a byte of AdamW8bit stands for; torchao keeps a table of them with each moment."""

_OF_TEXT = ("attn2.to_k", "attn2.to_v")
"""Ends of the names of matrices whose input is the text alone."""
_OF_TIME = ("time_emb_proj", "norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear")
"""Those whose input depends on time and pooled text alone."""
MOST_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors format allows."""
DENOISERS = ("unet", "transformer")
"""Folder of the denoiser in a base of each family."""


def num_weights(groups: Iterable[WeightGroup]) -> int:
    """Return the number of weights."""
    return sum(group.count * math.prod(group.shape) for group in groups)


def trained_weights(tuning: Lora | FullFineTune, groups: Sequence[WeightGroup]) -> list[WeightGroup]:
    """Return the weights that a recipe trains: all, or the two factors of each adapter.

    An adapter has rank x (inputs + outputs) weights for each matrix whose module has a target's name. A convolution's A
    has the kernel's size, its B is 1 x 1.
    """
    if isinstance(tuning, FullFineTune):
        return list(groups)
    found = []
    for group in groups:
        module, _, kind = group.name.rpartition(".")
        if kind != "weight" or len(group.shape) < 2:
            continue
        if any(module == target or module.endswith(f".{target}") for target in tuning.target_modules):
            outputs, inputs, *kernel = group.shape
            ones = (1,) * len(kernel)
            found.append(WeightGroup(name=f"{module}.A", shape=(tuning.rank, inputs, *kernel), count=group.count))
            found.append(WeightGroup(name=f"{module}.B", shape=(outputs, tuning.rank, *ones), count=group.count))
    return found


def read_in_backward(tuning: Lora | FullFineTune, groups: Iterable[WeightGroup]) -> list[WeightGroup]:
    """Return the base's weights that a backward pass reads: those whose input has a gradient.

    The input of the others is the text, or with adapters the time, whose embedding is then frozen.
    """
    ends = _OF_TEXT if isinstance(tuning, FullFineTune) else (*_OF_TEXT, *_OF_TIME)
    return [group for group in groups if not group.name.removesuffix(".weight").endswith(ends)]


def state_bytes(optimiser: AdamW | Adafactor | AdamW8bit, trained: Iterable[WeightGroup]) -> int:
    """Return the bytes that an optimiser keeps for the trained weights.

    AdamW keeps two moments of each weight in float32. AdamW8bit keeps a byte for each, a scale for each block, and with
    every moment the 256 values that a byte can stand for; small weights have float32. Adafactor without momentum keeps,
    for a weight of two or more dimensions, the means over its last and over its second last dimension; for a vector one
    number of each weight.
    """
    if isinstance(optimiser, AdamW):
        return 2 * _FLOAT32 * num_weights(trained)
    if isinstance(optimiser, AdamW8bit):
        return sum(group.count * 2 * _bytes_8bit(math.prod(group.shape)) for group in trained)
    return sum(group.count * _FLOAT32 * _factors(group.shape) for group in trained)


def _bytes_8bit(num_values: int) -> int:
    """Return the bytes of one moment of a weight."""
    if not has_8bit_moments(num_values):
        return _FLOAT32 * num_values
    return num_values + _FLOAT32 * (num_values // BLOCK_8BIT) + _FLOAT32 * _LEVELS


def _factors(shape: Shape) -> int:
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))


def base_weights(base_dir: Path) -> list[WeightGroup]:
    """Return the denoiser's weights in a base model's folder; ValueError when it has none."""
    folder = next((base_dir / part for part in DENOISERS if (base_dir / part).is_dir()), base_dir / DENOISERS[0])
    files = _weight_files(folder)
    if not files:
        raise ValueError(f"{folder} contains no safetensors weights. Copy the base model again.")
    return [group for file in files for group in _read_shapes(file)]


def _read_shapes(path: Path) -> list[WeightGroup]:
    """Read the shapes of a safetensors file from its header alone; ValueError when it is not one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise ValueError(f"its header says {length} bytes")
            entries = json.loads(file.read(length))
        return [
            WeightGroup(name=name, shape=tuple(entry["shape"]))
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {error}. Copy the base model again.") from error


def _weight_files(folder: Path) -> list[Path]:
    """Return one set of weights: the files that an index names, else the plain file. Other variants may lie beside
    them.
    """
    for index in sorted(folder.glob("diffusion_pytorch_model.safetensors.index.json")):
        return indexed_files(index)
    return sorted(folder.glob("diffusion_pytorch_model.safetensors"))
