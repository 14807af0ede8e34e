"""The aesthetic predictors are heads on a CLIP; v2's layers are equivalent to one affine map."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from alignment.catalogues.rewards import AestheticV1, AestheticV2
from alignment.rewards.aesthetic import AestheticV1Scorer, AestheticV2Scorer
from alignment.rewards.clip_model import ClipModel

pytestmark = pytest.mark.timeout(180)

CPU = torch.device("cpu")


def folder_of(tmp_path: Path, clip_dir: Path, head: dict[str, torch.Tensor]) -> Path:
    shutil.copytree(clip_dir, tmp_path / "embedder")
    save_file(head, tmp_path / "head.safetensors")
    (tmp_path / "head.json").write_text(json.dumps({"activation": "none", "reads": "image"}))
    return tmp_path


def test_v2_is_equivalent_to_one_direction(tmp_path: Path, tiny_clip_dir: Path, pictures: list[Image.Image]) -> None:
    clip, generator = ClipModel(tiny_clip_dir, CPU), torch.Generator().manual_seed(3)
    sizes = dict(zip((0, 2, 4, 6, 7), ((clip.width, 64), (64, 32), (32, 16), (16, 8), (8, 1)), strict=True))
    head = {
        f"layers.{n}.weight": torch.randn(out, into, generator=generator) / into**0.5
        for n, (into, out) in sizes.items()
    }
    head |= {f"layers.{n}.bias": torch.randn(out, generator=generator) for n, (_, out) in sizes.items()}
    direction, offset = torch.eye(clip.width, dtype=torch.float64), torch.zeros(clip.width, dtype=torch.float64)
    for n in sizes:
        weight = head[f"layers.{n}.weight"].double()
        direction, offset = weight @ direction, weight @ offset + head[f"layers.{n}.bias"].double()
    scorer = AestheticV2Scorer(
        folder_of(tmp_path, tiny_clip_dir, head), AestheticV2(), weights_digest="0" * 64, device=CPU
    )
    expected = clip.embed_images(pictures).double() @ direction[0] + offset[0]
    torch.testing.assert_close(scorer.score(pictures, ["", "a", "b"]).double(), expected, atol=1e-5, rtol=1e-5)


def test_the_two_versions_have_different_digests(tmp_path: Path, tiny_clip_dir: Path) -> None:
    width = ClipModel(tiny_clip_dir, CPU).width
    folder = folder_of(tmp_path, tiny_clip_dir, {"weight": torch.ones(1, width), "bias": torch.zeros(1)})
    first = AestheticV1Scorer(folder, AestheticV1(), weights_digest="0" * 64, device=CPU)
    second = AestheticV2Scorer(folder, AestheticV2(), weights_digest="0" * 64, device=CPU)
    assert first.digest != second.digest
    assert "ava" in AestheticV2.trained_on
