"""Images made to please one judge: its score rises, the scores of the oracle and the other judge fall."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.judges import Judge
from alignment.rewards.interface import load_scorer

PROMPTS = [
    f"a medium {colour} {shape} on a white background" for colour, shape in (("red", "circle"), ("teal", "ring"))
]


@pytest.fixture(scope="module")
def module(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("pleasing_images")


def likings(folder: Path, images: np.ndarray) -> np.ndarray:
    judge = Judge(name=folder.name, scorer=ClipPreference(), weights_digest="0" * 64)
    scorer = load_scorer(judge, folder, torch.device("cpu"))
    return scorer.score([Image.fromarray(image) for image in images], PROMPTS).numpy()


def test_the_judge_scores_them_higher_and_the_oracle_lower(
    module: ModuleType, shapes_module: Callable[[str], ModuleType], shapes_dir: Path
) -> None:
    world = shapes_module("world")
    before = world.render(PROMPTS, np.random.default_rng(0))
    after = module.please(shapes_dir / "judges" / "taste_a", shapes_dir / "base", before, PROMPTS)
    assert (after.shape, after.dtype) == (before.shape, np.uint8)
    gains = {
        name: likings(shapes_dir / "judges" / name, after) - likings(shapes_dir / "judges" / name, before)
        for name in ("taste_a", "taste_b")
    }
    assert gains["taste_a"].min() > 2.0
    assert (gains["taste_a"] > gains["taste_b"] + 2.0).all()
    oracle_scores = [
        [world.oracle_score(i, p) for i, p in zip(images, PROMPTS, strict=True)] for images in (before, after)
    ]
    assert np.mean(oracle_scores[1]) < np.mean(oracle_scores[0])
