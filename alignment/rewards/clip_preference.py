"""A preference-tuned CLIP in the PickScore convention."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from alignment.catalogues.rewards import ClipPreference
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND, ClipModel
from alignment.rewards.interface import scorer_digest


class ClipPreferenceScorer:
    """exp(logit_scale) * cos(text, image): differences within a prompt are log-odds of being preferred.

    Source: Kirstain et al. 2023, arXiv:2305.01569. Scores are comparable only between images of one prompt.
    """

    def __init__(self, weights_dir: Path, params: ClipPreference, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        self._clip = ClipModel(weights_dir, device)

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`."""
        return self._clip.logit_scale * self._clip.cosines(images_B, prompts)
