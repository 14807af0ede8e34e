"""The letterbox, against values by hand, and the score."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from alignment.catalogues.rewards import HpsV2
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.hpsv2 import HpsV2Scorer, _letterbox, _LetterboxedClip, _rgb

pytestmark = pytest.mark.timeout(180)

CPU = torch.device("cpu")


def test_the_longest_side_fits_and_the_rest_is_black() -> None:
    wide = _letterbox(torch.ones(3, 40, 128), 32, antialias=True)
    assert wide.shape == (3, 32, 32)
    assert wide[:, 11:21].min() > 0.999
    assert wide[:, :11].abs().max() == 0
    assert wide[:, 21:].abs().max() == 0


def test_an_odd_margin_is_smaller_on_top_and_left() -> None:
    rows = _letterbox(torch.ones(3, 31, 64), 64, antialias=True)[0, :, 0]
    assert rows[:16].sum() == 0
    assert rows[16:47].sum() == 31
    assert rows[47:].sum() == 0
    columns = _letterbox(torch.ones(3, 64, 31), 64, antialias=True)[0, 0]
    assert columns[:16].sum() == 0
    assert columns[16:47].sum() == 31


def test_antialias_smooths_shrunk_images() -> None:
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth, rough = (_letterbox(noise, 16, antialias=antialias) for antialias in (True, False))
    assert smooth.std() < rough.std() / 2


def test_a_fourth_channel_is_dropped() -> None:
    assert _rgb(Image.new("RGBA", (4, 2), (255, 0, 51, 7)))[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


def test_the_score_is_the_cosine_alone(tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]) -> None:
    scorers = {
        antialias: HpsV2Scorer(
            tiny_clip_dir, HpsV2(version="2.1", antialias=antialias), weights_digest="0" * 64, device=CPU
        )
        for antialias in (True, False)
    }
    clip = _LetterboxedClip(tiny_clip_dir, CPU, antialias=True)
    scores = scorers[True].score(pictures, captions)
    torch.testing.assert_close(scores, (clip.embed_images(pictures) * clip.embed_texts(captions)).sum(dim=1))
    assert (scores - ClipModel(tiny_clip_dir, CPU).cosines(pictures, captions)).abs().max() > 1e-4
    assert scorers[True].digest != scorers[False].digest
