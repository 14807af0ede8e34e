"""The PickScore convention."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from alignment.catalogues.rewards import ClipPreference
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.clip_preference import ClipPreferenceScorer

pytestmark = pytest.mark.timeout(180)


def test_score_is_the_cosine_times_exp_of_the_logit_scale(
    tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    device = torch.device("cpu")
    scorer = ClipPreferenceScorer(tiny_clip_dir, ClipPreference(), weights_digest="0" * 64, device=device)
    cosines = ClipModel(tiny_clip_dir, device).cosines(pictures, captions)
    scores = scorer.score(pictures, captions)
    torch.testing.assert_close(scores, cosines * torch.tensor(3.0).exp())
    assert scores.dtype == torch.float32
    assert scores.shape == (3,)
