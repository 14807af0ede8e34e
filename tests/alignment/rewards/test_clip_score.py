"""Caption match."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from alignment.catalogues.rewards import ClipScore
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.clip_score import ClipScoreScorer

pytestmark = pytest.mark.timeout(180)


def test_score_is_a_hundred_cosines_and_may_be_negative(
    tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    device = torch.device("cpu")
    scorer = ClipScoreScorer(tiny_clip_dir, ClipScore(), weights_digest="0" * 64, device=device)
    images, texts = pictures * 3, [text for text in captions for _ in range(3)]
    scores = scorer.score(images, texts)
    torch.testing.assert_close(scores, 100 * ClipModel(tiny_clip_dir, device).cosines(images, texts))
    assert scores.min() < 0
