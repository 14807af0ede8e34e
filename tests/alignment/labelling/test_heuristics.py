"""Each heuristic on images with a known value."""

import numpy as np
import pytest
from PIL import Image

from alignment.labelling.heuristics import HEURISTICS, measure


def image(pixels: list[list[tuple[int, int, int]]]) -> Image.Image:
    return Image.fromarray(np.array(pixels, dtype=np.uint8))


def test_brightness_is_mean_luminance() -> None:
    assert measure("brightness", image([[(255, 0, 0), (0, 255, 0)]])) == pytest.approx(255 * (0.299 + 0.587) / 2)


def test_contrast_is_the_spread_of_luminance() -> None:
    assert measure("contrast", image([[(0, 0, 0), (200, 200, 200)]])) == pytest.approx(100)
    assert measure("contrast", image([[(90, 90, 90)] * 2] * 2)) == pytest.approx(0)


def test_colourfulness_is_zero_for_greys_and_known_for_one_colour() -> None:
    assert measure("colourfulness", image([[(0, 0, 0), (200, 200, 200)]])) == pytest.approx(0)
    # One colour has no spread: 0.3 * |(255, 127.5)|.
    assert measure("colourfulness", image([[(255, 0, 0)]])) == pytest.approx(0.3 * np.hypot(255, 127.5))


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    black, white = (0, 0, 0), (255, 255, 255)
    # Inside of 3 x 4: Laplacians 0 and -4 * 255 where the white pixel is, 255 beside it.
    dotted = image([[black] * 4, [black, white, black, black], [black] * 4])
    assert measure("sharpness", dotted) == pytest.approx(np.var([-4 * 255, 255]))
    assert measure("sharpness", image([[white, black]])) == 0


def test_greyscale_images_are_measured_as_well() -> None:
    grey = Image.new("L", (8, 8), 128)
    assert [measure(name, grey) for name in HEURISTICS] == pytest.approx([128, 0, 0, 0], abs=1e-9)
