"""Artefact statistics of the pixels alone, for guards against images that exploit the judges."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alignment.catalogues.rewards import ImageStatistic
from alignment.rewards.interface import scorer_digest

Pixels = NDArray[np.float64]
LUMA = (0.299, 0.587, 0.114)
LOW_FREQUENCIES = 0.25
"""Cycles per pixel: half of the highest frequency that an image can hold in one direction."""


class ImageStatisticScorer:
    """The statistic, negated if less is better, because more always counts as better for a guard."""

    def __init__(self, weights_dir: Path, params: ImageStatistic, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(params, weights_digest=weights_digest, processor_backend="numpy", dtype="float64")
        self._measure = STATISTICS[params.statistic]
        self._sign = 1.0 if params.better == "more" else -1.0

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`. Prompts are ignored."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        values = [self._sign * self._measure(np.asarray(image.convert("RGB"), np.float64) / 255) for image in images_B]
        return torch.tensor(values, dtype=torch.float32)


def _saturation(pixels_HWC: Pixels) -> float:
    """Return the mean HSV saturation, in [0, 1]: (largest - smallest channel) / largest; 0 for black."""
    largest, smallest = pixels_HWC.max(axis=2), pixels_HWC.min(axis=2)
    return float(np.mean((largest - smallest) / np.where(largest > 0, largest, 1)))


def _contrast(pixels_HWC: Pixels) -> float:
    """Return the standard deviation of the luma, at most 0.5."""
    return float((pixels_HWC @ LUMA).std())


def _brightness(pixels_HWC: Pixels) -> float:
    """Return the mean luma, in [0, 1]."""
    return float((pixels_HWC @ LUMA).mean())


def _checkerboard(pixels_HWC: Pixels) -> float:
    """Return the mean size of the diagonal detail at the scale of one pixel, over the channels, in [0, 1].

    That is |a - b - c + d| / 4 over all squares of 2 x 2 pixels: the diagonal band of a Haar wavelet. It equals the
    amplitude of a checkerboard of one pixel, which people hardly see. Noise and sharpening raise it. It is 0 for an
    image of one row or column.
    """
    rows = pixels_HWC[1:] - pixels_HWC[:-1]
    diagonal = rows[:, 1:] - rows[:, :-1]
    return float(np.abs(diagonal).mean() / 4) if diagonal.size else 0.0


def _high_frequency(pixels_HWC: Pixels) -> float:
    """Return the share of the luma's energy, without its mean, above 0.25 cycles per pixel, in [0, 1].

    Noise and sharpening raise it. It is 0 for an image of one colour.
    """
    luma = pixels_HWC @ LUMA
    energy = np.abs(np.fft.fft2(luma - luma.mean())) ** 2
    rows, columns = (np.fft.fftfreq(length) for length in luma.shape)
    high = np.hypot(rows[:, None], columns[None, :]) > LOW_FREQUENCIES
    total = energy.sum()
    return float(energy[high].sum() / total) if total > 1e-12 else 0.0


STATISTICS: dict[str, Callable[[Pixels], float]] = {
    "saturation": _saturation,
    "contrast": _contrast,
    "brightness": _brightness,
    "high_frequency": _high_frequency,
    "checkerboard": _checkerboard,
}
