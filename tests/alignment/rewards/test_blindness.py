"""Scorers that look at image and prompt, and those that do not."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignment.rewards.blindness import check_sight


class Made:
    """A scorer from a function of an image's mean and a prompt's length."""

    digest = "0" * 64

    def __init__(self, function: Callable[[float, int], float]) -> None:
        self._function = function

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        pairs = zip(images, prompts, strict=True)
        return torch.tensor([self._function(float(np.asarray(image).mean()), len(prompt)) for image, prompt in pairs])


def check(function: Callable[[float, int], float], **options: Any) -> None:
    check_sight(Made(function), **{"reads_prompt": True, "what": "judge x", **options})


def test_a_scorer_that_looks_at_both_passes() -> None:
    check(lambda mean, length: mean * 1e-4 + length * 1e-3)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda mean, length: float(length), "image"),
        (lambda mean, length: mean, "prompt"),
        (lambda mean, length: 0.5, "image and prompt"),
        (lambda mean, length: 1000 + mean * 1e-9, "image and prompt"),
    ],
)
def test_a_blind_scorer_is_refused(function: Callable[[float, int], float], names: str) -> None:
    with pytest.raises(ValueError, match=f"The judge x gives the same score whatever the {names}\\."):
        check(function)


def test_a_scorer_of_images_may_ignore_the_prompt() -> None:
    check(lambda mean, length: mean, reads_prompt=False)


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        check(lambda mean, length: float("nan") if length > 20 else mean)
