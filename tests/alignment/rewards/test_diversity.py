"""Distances between the seeds of a prompt."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from alignment.rewards.catalogue import Diversity
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.diversity import DiversityScorer, mean_distances

pytestmark = pytest.mark.timeout(180)


def test_the_mean_over_seeds_is_the_mean_over_pairs() -> None:
    half = 0.5**0.5
    three = torch.tensor([[1.0, 0.0], [0.0, 1.0], [half, half]])
    # Pairs: 1, 1 - half, 1 - half.
    assert mean_distances(three).tolist() == pytest.approx([(2 - half) / 2, (2 - half) / 2, 1 - half])
    assert mean_distances(three).mean().item() == pytest.approx((3 - 2 * half) / 3)
    with pytest.raises(ValueError, match="needs two"):
        mean_distances(three[:1])


def test_a_clip_is_read_by_its_image_embedding(tiny_clip_dir: Path, pictures: list[Image.Image]) -> None:
    device = torch.device("cpu")
    scorer = DiversityScorer(tiny_clip_dir, Diversity(), weights_digest="0" * 64, device=device)
    torch.testing.assert_close(scorer.embed(pictures), ClipModel(tiny_clip_dir, device).embed_images(pictures))
    one, other = pictures[:2]
    scores = scorer.score([one, one, one, other], ["same", "same", "two", "two"])
    assert scores[:2].abs().max() < 1e-6
    assert scores[2] == scores[3] > 1e-4
