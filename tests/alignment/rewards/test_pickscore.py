"""PickScore's convention and the training sources of its weights."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from alignment.catalogues.rewards import PickScore
from alignment.contracts.judges import Judge
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.interface import load_scorer

pytestmark = pytest.mark.timeout(180)


def test_scores_are_logits_of_being_picked(
    tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    device = torch.device("cpu")
    judge = Judge(name="pickscore", scorer=PickScore(), weights_digest="0" * 64)
    scores = load_scorer(judge, tiny_clip_dir, device).score(pictures, captions)
    cosines = ClipModel(tiny_clip_dir, device).cosines(pictures, captions)
    torch.testing.assert_close(scores, cosines * torch.tensor(3.0).exp())


def test_pickscore_shares_training_sources_with_models_of_pick_a_pic() -> None:
    judge = Judge(name="pickscore", scorer=PickScore(), weights_digest="0" * 64, trained_on=("our_own_labels",))
    assert {"pick_a_pic", "pick_a_pic_v2", "our_own_labels"} <= set(judge.training_sources)
