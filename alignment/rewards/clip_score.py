"""Caption match by a contrastive CLIP."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from alignment.catalogues.rewards import ClipScore
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND, ClipModel
from alignment.rewards.interface import scorer_digest


class ClipScoreScorer:
    """100 * cos(text, image), per image and without a clamp, so from -100 to 100.

    Source: Hessel et al. 2021, arXiv:2104.08718, who weight max(cos, 0) of each image by 2.5. torchmetrics weights by
    100, as here, and clamps only once: its metric is max(0, mean over the images of 100 * cos), for pairs of texts or
    of images as well. So a mean of our scores is that metric wherever it is positive. No score is clamped here: a clamp
    would hide differences between bad images, and the gate uses differences.
    """

    def __init__(self, weights_dir: Path, params: ClipScore, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        self._clip = ClipModel(weights_dir, device)

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`."""
        return 100.0 * self._clip.cosines(images_B, prompts)
