"""Labelers that use pixels only: weak, cheap, and untrained. H W C are height, width and channels.

They run on images of any size, so each is a mean or a spread over pixels and not a sum.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alignment.contracts.labelling import HeuristicName

LUMINANCE_C = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601."""


def _brightness(pixels_HWC: NDArray[np.float64]) -> float:
    """Mean luminance, 0 to 255."""
    return float((pixels_HWC @ LUMINANCE_C).mean())


def _contrast(pixels_HWC: NDArray[np.float64]) -> float:
    """Standard deviation of the luminance."""
    return float((pixels_HWC @ LUMINANCE_C).std())


def _colourfulness(pixels_HWC: NDArray[np.float64]) -> float:
    """Spread and mean of the two opponent colours. Source: Hasler and Suesstrunk 2003, their M(3)."""
    red, green, blue = (pixels_HWC[..., channel] for channel in range(3))
    red_green, yellow_blue = red - green, 0.5 * (red + green) - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def _sharpness(pixels_HWC: NDArray[np.float64]) -> float:
    """Variance of the luminance's Laplacian (four neighbours); 0 for an image too small to have interior pixels."""
    light_HW = pixels_HWC @ LUMINANCE_C
    if min(light_HW.shape) < 3:
        return 0.0
    around = light_HW[:-2, 1:-1] + light_HW[2:, 1:-1] + light_HW[1:-1, :-2] + light_HW[1:-1, 2:]
    return float((around - 4 * light_HW[1:-1, 1:-1]).var())


HEURISTICS: Mapping[HeuristicName, Callable[[NDArray[np.float64]], float]] = {
    "brightness": _brightness,
    "colourfulness": _colourfulness,
    "contrast": _contrast,
    "sharpness": _sharpness,
}


def measure(name: HeuristicName, image: Image.Image) -> float:
    """Compute a heuristic's number for an image."""
    return HEURISTICS[name](np.asarray(image.convert("RGB"), dtype=np.float64))
