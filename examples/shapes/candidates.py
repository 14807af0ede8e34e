"""Forty candidates of known kinds: what each was trained on, how far, and what the gate is told of its lineage.

Real trainings from the base, a few of them, and weights on the line from the base through each: base + scale x (trained
- base). A scale below 1 has learnt less, one above 1 overdoes it; each is a model of its own.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from world import parse_caption

from pipelines.intake.snapshot import SNAPSHOT_SCHEMA

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
BAD_SLICE = "star"
HANDFUL = 8
SPLITS = ("train", "calibration", "test")

Row = dict[str, Any]
Change = Callable[[Sequence[Row], np.random.Generator], list[Row]]
"""Training rows of a snapshot to those of another."""


@dataclass(frozen=True)
class Training:
    """One run from the base."""

    recipe: str
    overrides: tuple[str, ...]
    pairs: str = "world"
    """Name of a snapshot: `world`, `mismatched`, `votes`, or a change below."""
    lessons: tuple[str, ...] = ("shapes_pairs",)
    """What the candidate's version says that it learnt from; a scorer's name stands for all its lessons."""


@dataclass(frozen=True)
class Candidate:
    """Weights at a scale along a training, or the base with noise of that scale where there is none."""

    kind: str
    training: str
    scale: float

    @property
    def name(self) -> str:
        """Unique among the forty."""
        return f"{self.training} x {self.scale:g}"


NOISE = "noise"
_SHORT = ("global_batch=16", "steps=30", "optimiser.warmup_steps=2", "seed=7")
_GENTLE = (*_SHORT, "optimiser.learning_rate=4e-5")
_STRONG = (*_SHORT, "optimiser.learning_rate=1e-4")
_ONLINE = ("steps=40", "objective.images_per_prompt=16", "objective.updates_per_epoch=1", "objective.num_minibatches=1")
TRAININGS: dict[str, Training] = {
    "dpo-7": Training("diffusion_dpo_shapes", ("steps=100", "seed=7")),
    "dpo-8": Training("diffusion_dpo_shapes", ("steps=100", "seed=8")),
    "dpo-9": Training("diffusion_dpo_shapes", ("steps=100", "seed=9")),
    "dpo-long": Training("diffusion_dpo_shapes", ("seed=7",)),
    "flipped": Training(
        "diffusion_dpo_shapes",
        (*_GENTLE, "flip_labels=true"),
    ),
    "shuffled": Training("diffusion_dpo_shapes", _GENTLE, "shuffled"),
    "votes": Training("diffusion_dpo_shapes", _STRONG, "votes", ("shapes_pairs", "taste_a")),
    "online": Training(
        "prdp_shapes",
        (
            *_ONLINE,
            "objective.sampler_steps=5",
            "objective.guidance_scale=1",
            "optimiser.learning_rate=1e-5",
            "optimiser.warmup_steps=2",
        ),
        lessons=("taste_a",),
    ),
    "house": Training("diffusion_dpo_shapes", ("steps=100", "seed=7"), "mismatched", ("house_style",)),
    "house-sft": Training(
        "sft_shapes",
        ("global_batch=16", "steps=60", "optimiser.warmup_steps=2", "optimiser.learning_rate=3e-4", "seed=7"),
        "mismatched",
        ("house_style",),
    ),
    "handful": Training("sft_shapes", _STRONG, "handful"),
    "star-flipped": Training("diffusion_dpo_shapes", _STRONG, "star_flipped"),
    "star-wrong": Training("sft_shapes", _STRONG, "star_wrong"),
}

_SCALES: dict[str, dict[str, tuple[float, ...]]] = {
    "good": {"dpo-7": (1, 0.5, 2, 1.5), "dpo-long": (1, 0.5), "dpo-8": (1, 0.5, 2), "dpo-9": (1,)},
    "diversity-collapsed": {"house": (4, 1), "house-sft": (1,), "handful": (1, 2, 0.5)},
    "over-trained on one judge": {"online": (2, 4, 1), "votes": (1, 2, 0.5)},
    "null": {NOISE: (0.002, 0.004, 0.008, 0.016), "shuffled": (1, 0.5, 2)},
    "flipped labels": {"flipped": (1, 2, 0.5, 1.5, 0.25)},
    "one bad slice": {"star-wrong": (1, 2, 0.5), "star-flipped": (1, 2, 0.5)},
}


def candidates() -> list[Candidate]:
    """All forty, one of each kind in turn, so that what is finished first is of every kind."""
    kinds = [
        [Candidate(kind, training, scale) for training, scales in trainings.items() for scale in scales]
        for kind, trainings in _SCALES.items()
    ]
    longest = max(len(own) for own in kinds)
    return [own[turn] for turn in range(longest) for own in kinds if turn < len(own)]


# --- weights ----------------------------------------------------------------------------------------------------------


def along(base: dict[str, Tensor], trained: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """base + scale x (trained - base), tensor by tensor."""
    if base.keys() != trained.keys():
        raise ValueError(f"The weights have different tensors: {sorted(base.keys() ^ trained.keys())[:3]}.")
    return {name: base[name] + scale * (trained[name] - base[name]) for name in base}


def noisy(base: dict[str, Tensor], scale: float, seed: int) -> dict[str, Tensor]:
    """Gaussian noise on each tensor, `scale` of the tensor's own standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + scale * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
        for name, tensor in sorted(base.items())
    }


def write_weights(candidate: Candidate, base: Path, trained: Path | None, out: Path) -> Path:
    """A folder of full weights, `unet/` as save_pretrained writes it."""
    folder = out / "unet"
    if not (folder / WEIGHTS_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(base / "unet" / "config.json", folder)
        own = load_file(base / "unet" / WEIGHTS_FILE)
        if trained is None:
            found = noisy(own, candidate.scale, seed=round(1e4 * candidate.scale))
        else:
            found = along(own, load_file(trained / "unet" / WEIGHTS_FILE), candidate.scale)
        save_file(found, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return out


# --- what a training is misled by -------------------------------------------------------------------------------------


def swapped(row: Row) -> Row:
    """The pair with the other image chosen."""
    return row | {
        f"{what}_{ours}": row[f"{what}_{theirs}"]
        for what in ("image", "caption")
        for ours, theirs in (("chosen", "rejected"), ("rejected", "chosen"))
    }


def shuffled(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Labels that say nothing: a coin for each pair."""
    return [swapped(row) if rng.random() < 0.5 else row for row in rows]


def star_flipped(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Labels of the pairs of one shape the wrong way round, the others as people gave them."""
    del rng
    return [swapped(row) if _shape(row) == BAD_SLICE else row for row in rows]


def star_wrong(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Pairs of one shape show another shape, as a source with mixed-up files would."""
    others = [row for row in rows if _shape(row) != BAD_SLICE]
    found = []
    for row in rows:
        if _shape(row) == BAD_SLICE:
            other = others[int(rng.integers(len(others)))]
            row = row | {name: other[name] for name in ("image_chosen", "image_rejected")}
        found.append(row)
    return found


def handful(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """A few pairs again and again."""
    decided = [row for row in rows if not row["is_tie"]]
    chosen = rng.permutation(len(decided))[:HANDFUL]
    return [
        decided[index] | {"pair_id": f"{turn * HANDFUL + place:064x}"}
        for turn in range(8)
        for place, index in enumerate(chosen)
    ]


def voted(rows: Sequence[Row], gains: Sequence[float]) -> list[Row]:
    """Labels by a judge: `gains` is its score of the chosen image less that of the rejected one."""
    return [swapped(row) if gain < 0 else row for row, gain in zip(rows, gains, strict=True)]


CHANGES: dict[str, Change] = {
    "shuffled": shuffled,
    "star_flipped": star_flipped,
    "star_wrong": star_wrong,
    "handful": handful,
}


def _shape(row: Row) -> str:
    return parse_caption(row["prompt"]).shape


def changed_snapshot(source: Path, out: Path, change: Callable[[Sequence[Row]], list[Row]]) -> Path:
    """The snapshot with other training rows; its calibration and test splits stay."""
    if not (out / "train.parquet").is_file():
        out.mkdir(parents=True, exist_ok=True)
        for split in SPLITS[1:]:
            shutil.copy(source / f"{split}.parquet", out)
        rows = change(pq.read_table(source / "train.parquet").to_pylist())
        pq.write_table(pa.Table.from_pylist(rows, SNAPSHOT_SCHEMA), out / "train.parquet", row_group_size=64)
    return out
