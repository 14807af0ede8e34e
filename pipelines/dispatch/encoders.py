"""Find scorers that were fine-tuned from one encoder, by their weights: such judges have the same blind spots.

Fine-tuning moves weights little: matrices of two models from one encoder have a cosine near 1, and those of models
that were trained from different starting points a cosine near 0.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment.catalogues.rewards import RewardParams

ALIKE = 0.5
"""Cosine from which two encoders count as one."""
NUM_MATRICES = 8
NUM_VALUES = 65_536
"""Values read from the beginning of each matrix."""
MAXIMUM_HEADER = 100_000_000
"""Largest header in bytes, as in the safetensors library."""
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

_Sample = dict[tuple[str, tuple[int, ...]], NDArray[np.float64]]
"""Name and shape of a matrix to its first values."""


def shared_encoders(scorers: Mapping[str, tuple[Path, RewardParams]]) -> dict[str, str]:
    """Return a family for each scorer whose encoder resembles that of another; scorers that resemble none are left out.

    The family is the encoder of the published weights where one of its scorers is published, else the name of its
    first scorer.
    """
    samples = {name: _sample(folder, scorer) for name, (folder, scorer) in scorers.items()}
    families: list[list[str]] = []
    for name, sample in samples.items():
        alike = [family for family in families if any(_alike(sample, samples[other]) for other in family)]
        families = [family for family in families if family not in alike]
        families.append([*(other for family in alike for other in family), name])
    shared = [family for family in families if len(family) > 1]
    return {name: _name(family, scorers) for family in shared for name in family}


def _name(family: list[str], scorers: Mapping[str, tuple[Path, RewardParams]]) -> str:
    published = [scorers[name][1].encoder_family for name in family]
    return next((encoder for encoder in published if encoder), family[0])


def _alike(first: _Sample, second: _Sample) -> bool:
    """Return True when most of the matrices that both have resemble each other."""
    cosines = [_cosine(values, second[key]) for key, values in first.items() if key in second]
    return bool(cosines) and float(np.median(cosines)) > ALIKE


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / size if size else 0.0


def _sample(folder: Path, scorer: RewardParams) -> _Sample:
    """Read the beginning of the largest matrices of a scorer's encoder."""
    files = [path for part in scorer.components for path in sorted((folder / part).glob("*.safetensors"))]
    found = [(path, entry) for path in files for entry in _matrices(path)]
    found.sort(key=lambda item: (-int(np.prod(item[1]["shape"])), item[1]["name"]))
    return {(entry["name"], tuple(entry["shape"])): _first_values(path, entry) for path, entry in found[:NUM_MATRICES]}


def _matrices(path: Path) -> list[dict[str, Any]]:
    """List the matrices in the header of a safetensors file, with the offset of each in the file.

    A file that is not safetensors has none; the job that loads it reports the fault.
    """
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(min(size, MAXIMUM_HEADER)))
        except ValueError:
            return []
    return [
        {**entry, "name": name, "offset": 8 + size + entry["data_offsets"][0]}
        for name, entry in header.items()
        if name != "__metadata__" and len(entry["shape"]) > 1 and entry["dtype"] in DTYPES
    ]


def _first_values(path: Path, entry: Mapping[str, Any]) -> NDArray[np.float64]:
    kind = str(entry["dtype"])
    number = min(NUM_VALUES, int(np.prod(entry["shape"])))
    values = np.fromfile(path, dtype=DTYPES[kind], count=number, offset=int(entry["offset"]))
    if kind == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, dtype=np.float64)
