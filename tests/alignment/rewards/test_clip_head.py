"""A head on a CLIP."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from alignment.catalogues.rewards import ClipHead
from alignment.rewards.clip_head import ClipHeadScorer
from alignment.rewards.clip_model import ClipModel

pytestmark = pytest.mark.timeout(180)

CPU = torch.device("cpu")


def make(folder: Path, clip_dir: Path, weight: torch.Tensor, **head: str) -> ClipHeadScorer:
    shutil.copytree(clip_dir, folder / "embedder")
    save_file({"weight": weight, "bias": torch.tensor([0.25])}, folder / "head.safetensors")
    (folder / "head.json").write_text(json.dumps(head))
    return ClipHeadScorer(folder, ClipHead(), weights_digest="0" * 64, device=CPU)


def test_the_head_reads_the_unit_image_embedding(
    tmp_path: Path, tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    clip = ClipModel(tiny_clip_dir, CPU)
    weight = torch.linspace(-1, 1, clip.width)[None]
    scorer = make(tmp_path, tiny_clip_dir, weight)
    expected = clip.embed_images(pictures) @ weight[0] + 0.25
    torch.testing.assert_close(scorer.score(pictures, captions), expected)
    torch.testing.assert_close(scorer.score(pictures, [""] * 3), expected)


def test_a_head_on_image_and_prompt_reads_the_prompt_second(
    tmp_path: Path, tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    clip = ClipModel(tiny_clip_dir, CPU)
    weight = torch.cat([torch.zeros(clip.width), torch.linspace(-1, 1, clip.width)])[None]
    scores = make(tmp_path, tiny_clip_dir, weight, reads="image_text").score(pictures, captions)
    torch.testing.assert_close(scores, clip.embed_texts(captions) @ weight[0, clip.width :] + 0.25)


def test_a_head_of_another_clip_and_bad_settings_are_refused(tmp_path: Path, tiny_clip_dir: Path) -> None:
    with pytest.raises(ValueError, match="reads embeddings of width 5, but its embedder gives"):
        make(tmp_path / "other", tiny_clip_dir, torch.ones(1, 5))
    with pytest.raises(ValueError, match="activation"):
        make(tmp_path / "bad", tiny_clip_dir, torch.ones(1, 5), activation="sine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"lacks head\.json, head\.safetensors"):
        ClipHeadScorer(tmp_path / "empty", ClipHead(), weights_digest="0" * 64, device=CPU)
