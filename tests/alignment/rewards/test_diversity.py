"""Distances between the seeds of a prompt."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from alignment.catalogues.rewards import Diversity
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.diversity import DiversityScorer, _mean_distances

pytestmark = pytest.mark.timeout(180)


def test_the_mean_over_seeds_is_the_mean_over_pairs() -> None:
    half = 0.5**0.5
    three = torch.tensor([[1.0, 0.0], [0.0, 1.0], [half, half]])
    # Pairs: 1, 1 - half, 1 - half.
    assert _mean_distances(three).tolist() == pytest.approx([(2 - half) / 2, (2 - half) / 2, 1 - half])
    assert _mean_distances(three).mean().item() == pytest.approx((3 - 2 * half) / 3)
    with pytest.raises(ValueError, match="needs at least two"):
        _mean_distances(three[:1])


def test_a_clip_uses_its_image_embedding(tiny_clip_dir: Path, pictures: list[Image.Image]) -> None:
    device = torch.device("cpu")
    scorer = DiversityScorer(tiny_clip_dir, Diversity(), weights_digest="0" * 64, device=device)
    torch.testing.assert_close(scorer.embed(pictures), ClipModel(tiny_clip_dir, device).embed_images(pictures))
    one, other = pictures[:2]
    scores = scorer.score([one, one, one, other], ["same", "same", "two", "two"])
    assert scores[:2].abs().max() < 1e-6
    assert scores[2] == scores[3] > 1e-4


def test_only_weights_that_the_embedding_does_not_use_may_be_missing(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    config = ViTConfig(
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        **{"image_size": 16, "patch_size": 8},
    )
    with torch.random.fork_rng():
        # A classifier: it has a head that the embedding does not need, and no pooler.
        ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    device = torch.device("cpu")
    scorers = [DiversityScorer(tmp_path, Diversity(), weights_digest="0" * 64, device=device) for _ in range(2)]
    torch.testing.assert_close(scorers[0].embed(pictures), scorers[1].embed(pictures))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vit.layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"The embedder .* lacks 1 weights, which would be random \(layernorm\.weight\)"
    ):
        DiversityScorer(tmp_path, Diversity(), weights_digest="0" * 64, device=device)
