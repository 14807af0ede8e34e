"""Images and captions to score."""

import numpy as np
import pytest
from PIL import Image

PROMPTS = ("a red circle", "blue", "a green square on a white background and then many more words than fit")


@pytest.fixture
def pictures() -> list[Image.Image]:
    """Three images of different sizes and modes."""
    rng = np.random.default_rng(2)
    sizes = ((64, 64), (50, 80), (90, 40))
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    images[1] = images[1].convert("L")
    return images


@pytest.fixture
def captions() -> list[str]:
    """One caption per picture; the last is longer than the text encoder reads."""
    return list(PROMPTS)
