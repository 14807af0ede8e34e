"""Statistics of images with known values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from alignment.catalogues.rewards import ImageStatistic
from alignment.contracts.judges import Judge
from alignment.contracts.values import folder_digest
from alignment.rewards.image_statistics import _brightness, _checkerboard, _contrast, _high_frequency, _saturation
from alignment.rewards.interface import load_scorer


def plain(*colour: float) -> np.ndarray:
    return np.full((8, 8, 3), colour, dtype=np.float64)


def test_saturation_is_that_of_hsv() -> None:
    assert _saturation(plain(1, 0, 0)) == 1
    assert _saturation(plain(0.5, 0.5, 0.5)) == _saturation(plain(0, 0, 0)) == 0
    assert _saturation(plain(0.8, 0.6, 0.4)) == pytest.approx(0.5)


def test_contrast_is_the_deviation_of_luma() -> None:
    halves = np.concatenate([plain(0, 0, 0), plain(1, 1, 1)])
    assert _contrast(halves) == pytest.approx(0.5)
    assert _contrast(plain(0.3, 0.9, 0.1)) == pytest.approx(0)


def test_brightness_is_the_mean_luma() -> None:
    assert _brightness(plain(1, 1, 1)) == pytest.approx(1)
    assert _brightness(plain(0, 1, 0)) == pytest.approx(0.587)


@pytest.mark.parametrize("channels", [(1, 1, 1), (1, -1, 0)])
def test_checkerboard_is_the_amplitude_of_one(channels: tuple[int, int, int]) -> None:
    """Of the same sign in all channels, or of opposite signs in two, where the luma hardly changes."""
    signs = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1
    board = plain(0.5, 0.5, 0.5) + 4 / 255 * signs[..., None] * np.array(channels)
    assert _checkerboard(board) == pytest.approx(4 / 255 * np.abs(channels).mean())


def test_checkerboard_ignores_slopes_and_stripes() -> None:
    stripes = np.repeat(np.tile(np.arange(8) % 2, (8, 1))[..., None], 3, axis=2).astype(float)
    slope = np.repeat(np.add.outer(np.arange(8), 2 * np.arange(8))[..., None], 3, axis=2) / 30
    assert _checkerboard(stripes) == 0
    assert _checkerboard(slope) == pytest.approx(0, abs=1e-12)
    assert _checkerboard(slope[:1]) == 0


def test_high_frequency_separates_fine_from_coarse_stripes() -> None:
    columns = np.arange(16)

    def waves(period: int) -> np.ndarray:
        return np.repeat(np.tile(0.5 + 0.4 * np.cos(2 * np.pi * columns / period), (16, 1))[..., None], 3, axis=2)

    assert _high_frequency(waves(2)) == pytest.approx(1)
    assert _high_frequency(waves(8)) == pytest.approx(0, abs=1e-9)
    assert _high_frequency(plain(0.2, 0.2, 0.2)) == 0


def test_less_is_better_by_default_and_sharpening_is_detected() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(1))
    harsh = image.filter(ImageFilter.UnsharpMask(radius=2, percent=300))

    def scores(better: str) -> list[float]:
        params = ImageStatistic.model_validate({"statistic": "high_frequency", "better": better})
        judge = Judge(name="sharp", scorer=params, weights_digest=folder_digest({}))
        scorer = load_scorer(judge, Path("nowhere"), torch.device("cpu"))
        return scorer.score([image, harsh], ["", ""]).tolist()

    less, more = scores("less"), scores("more")
    assert more[0] < more[1]
    assert less == [-value for value in more]
