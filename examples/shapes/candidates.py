"""Forty candidates of known kinds: training data, strength of the training, and the lineage that the gate sees.

They are a few real trainings from the base, and weights on the line from the base through each: base + scale x
(trained
- base). A scale below 1 undertrains, one above 1 overtrains; each scale is a separate model.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Training:
    """One training run from the base."""

    recipe: str
    overrides: tuple[str, ...]
    pairs: str = "world"
    """Name of a snapshot: `world`, `mismatched`, `votes`, `pleasing`, or a change of `misleading_pairs`."""
    training_sources: tuple[str, ...] = ("shapes_pairs",)
    """The training sources that the candidate's version declares; a scorer's name stands for all its sources."""


@dataclass(frozen=True)
class Candidate:
    """Weights at a scale along a training, or the base with noise of that scale when there is no training."""

    kind: str
    training: str
    scale: float

    @property
    def name(self) -> str:
        """Unique among the forty."""
        return f"{self.training} x {self.scale:g}"


NOISE = "noise"
_SUPPLIED = ("global_batch=32", "optimiser.warmup_steps=10", "seed=7")
TRAININGS: dict[str, Training] = {
    "dpo": Training("diffusion_dpo_shapes", ("seed=7",)),
    "mapo": Training("mapo_shapes", ("seed=7",)),
    "star-flipped": Training("diffusion_dpo_shapes", ("seed=7", "optimiser.learning_rate=2e-5"), "star_flipped"),
    "flipped": Training("diffusion_dpo_shapes", ("seed=7", "flip_labels=true")),
    "shuffled": Training("diffusion_dpo_shapes", ("steps=20", "optimiser.learning_rate=1e-6", "seed=7"), "shuffled"),
    "identical": Training(
        "sft_shapes", (*_SUPPLIED, "steps=400", "optimiser.learning_rate=2e-4"), "identical", ("identical_drawings",)
    ),
    "house": Training(
        "sft_shapes", (*_SUPPLIED, "steps=400", "optimiser.learning_rate=3e-4"), "mismatched", ("house_style",)
    ),
    "drafts": Training(
        "sft_shapes", (*_SUPPLIED, "steps=300", "optimiser.learning_rate=1.5e-4"), "star_drafts", ("star_drafts",)
    ),
    "votes": Training(
        "diffusion_dpo_shapes", ("seed=7", "optimiser.learning_rate=1e-4"), "votes", ("shapes_pairs", "taste_a")
    ),
    "pleasing": Training(
        "sft_shapes", (*_SUPPLIED, "steps=150", "optimiser.learning_rate=1e-4"), "pleasing", ("taste_a",)
    ),
}

_SCALES: dict[str, dict[str, tuple[float, ...]]] = {
    "good": {"dpo": (1, 0.5, 0.25, 1.5, 2), "mapo": (1, 0.5, 1.5)},
    "diversity-collapsed": {"identical": (0.7, 1, 0.5, 0.6), "house": (1, 0.6)},
    "over-trained on one judge": {"pleasing": (1, 0.5, 2, 0.25), "votes": (2, 1, 3, 0.5)},
    "null": {NOISE: (0.001, 0.002, 0.004, 0.008), "shuffled": (1, 0.5, 2)},
    "flipped labels": {"flipped": (1, 0.25, 0.1, 1.5, 0.5)},
    "one bad slice": {"drafts": (1, 0.5, 0.7, 0.35), "star-flipped": (1, 2)},
}


def candidates() -> list[Candidate]:
    """List all forty, cycling through the kinds, so that the first ones finished cover every kind."""
    kinds = [
        [Candidate(kind, training, scale) for training, scales in trainings.items() for scale in scales]
        for kind, trainings in _SCALES.items()
    ]
    longest = max(len(own) for own in kinds)
    return [own[turn] for turn in range(longest) for own in kinds if turn < len(own)]


# --- weights ----------------------------------------------------------------------------------------------------------


def interpolate(base: dict[str, Tensor], trained: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
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
    """Write a folder of full weights, `unet/` as save_pretrained writes it."""
    folder = out / "unet"
    if not (folder / WEIGHTS_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(base / "unet" / "config.json", folder)
        own = load_file(base / "unet" / WEIGHTS_FILE)
        if trained is None:
            found = noisy(own, candidate.scale, seed=round(1e4 * candidate.scale))
        else:
            found = interpolate(own, load_file(trained / "unet" / WEIGHTS_FILE), candidate.scale)
        save_file(found, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return out
