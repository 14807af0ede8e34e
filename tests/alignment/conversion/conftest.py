"""Test images, as in the tests of scorers."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures() -> list[Image.Image]:
    """Three images of different sizes."""
    rng = np.random.default_rng(2)
    return [
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((64, 64), (50, 80), (90, 40))
    ]
