"""The scorer interface, and the loading of a scorer by its catalogue entry. B counts (image, prompt) pairs."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, cast

import torch
from PIL import Image
from torch import Tensor

from alignment.catalogues.lookup import resolve
from alignment.catalogues.rewards import RewardParams
from alignment.contracts.judges import Judge
from alignment.contracts.values import canonical_json

NUMERIC_LIBRARIES = ("torch", "transformers", "pillow")


class Scorer(Protocol):
    """Computes a number for each (image, prompt). More is better. float32 throughout."""

    digest: str
    """`scorer_digest` of the scorer. Do not compare scores with different digests."""

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B, float32 on the CPU, for image b with prompt b.

        Images are PIL images of any size and mode, because calibration pairs differ in size and the published
        preprocessing works on 8-bit pixels. ValueError when the two arguments differ in length.
        """
        ...


def load_scorer(judge: Judge, weights_dir: Path, device: torch.device) -> Scorer:
    """Load the scorer that a judge or guard names, with the weights in `weights_dir`.

    Raises ValueError when the folder lacks a file.
    """
    implementation = resolve(judge.scorer.implementation)
    scorer = implementation(weights_dir, judge.scorer, weights_digest=judge.weights_digest, device=device)
    return cast(Scorer, scorer)


def scorer_digest(params: RewardParams, *, weights_digest: str, processor_backend: str, dtype: str) -> str:
    """Return the sha256 of everything that affects a score: parameters, weights, library versions, backend, dtype."""
    identity = {
        "params": params.model_dump(mode="json"),
        "implementation": params.implementation,
        "weights_digest": weights_digest,
        "versions": {name: version(name) for name in NUMERIC_LIBRARIES},
        "processor_backend": processor_backend,
        "dtype": dtype,
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()
