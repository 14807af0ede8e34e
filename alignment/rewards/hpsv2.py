"""HPSv2 and HPSv2.1: a preference-tuned CLIP that reads the complete image. B counts images, C H W an image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alignment.catalogues.rewards import HpsV2
from alignment.rewards.clip_model import DTYPE, ClipModel
from alignment.rewards.interface import scorer_digest

PIXELS = "float tensor"
"""Processor backend in the digest. As in the authors' code, images are resized after division by 255."""


class HpsV2Scorer:
    """cos(text, image), without the logit scale. The published leaderboard multiplies the mean by 100.

    Source: Wu et al. 2023, arXiv:2306.09341. Versions 2.0 and 2.1 are the same network with different weights, on
    widely different scales. Departure: every image is first converted to RGB; the authors' code keeps a fourth channel.
    """

    def __init__(self, weights_dir: Path, params: HpsV2, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(params, weights_digest=weights_digest, processor_backend=PIXELS, dtype=DTYPE)
        self._clip = _LetterboxedClip(weights_dir, device, antialias=params.antialias)

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`."""
        return self._clip.cosines(images_B, prompts)


class _LetterboxedClip(ClipModel):
    """A CLIP whose images are shrunk to fit and padded with black instead of cropped."""

    def __init__(self, weights_dir: Path, device: torch.device, *, antialias: bool) -> None:
        super().__init__(weights_dir, device)
        self._antialias = antialias

    def pixels(self, images_B: Sequence[Image.Image]) -> Tensor:
        """Return BCHW, normalised with the mean and deviation of the folder's processor."""
        mean_C11, std_C11 = (
            torch.tensor(values).view(-1, 1, 1) for values in (self._processor.image_mean, self._processor.image_std)
        )
        side = self._model.config.vision_config.image_size
        boxes = [_letterbox(_rgb(image), side, antialias=self._antialias) for image in images_B]
        return (torch.stack(boxes) - mean_C11) / std_C11


def _rgb(image: Image.Image) -> Tensor:
    """Convert to RGB, CHW in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def _letterbox(image_CHW: Tensor, side: int, *, antialias: bool) -> Tensor:
    """Resize the longest side to `side` (bicubic) and pad with black; an odd margin is smaller at the left and top.

    Values may leave [0, 1], because bicubic interpolation overshoots and the authors' code does not clip.
    """
    height, width = image_CHW.shape[-2:]
    scale = side / max(height, width)
    if scale != 1:
        size = (round(height * scale), round(width * scale))
        resized_1CHW = F.interpolate(image_CHW[None], size, mode="bicubic", align_corners=False, antialias=antialias)
        image_CHW = resized_1CHW[0]
    below, right = (side - length for length in image_CHW.shape[-2:])
    return F.pad(image_CHW, (right // 2, right - right // 2, below // 2, below - below // 2))
