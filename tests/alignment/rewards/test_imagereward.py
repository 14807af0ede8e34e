"""ImageReward with a tiny BLIP of the published layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alignment.catalogues.rewards import ImageReward
from alignment.conversion.imagereward import DEVIATION, MEAN, _tokenizer_of, write_imagereward
from alignment.rewards.imagereward import ImageRewardScorer, _Blip, _centre_square

pytestmark = pytest.mark.timeout(180)

CPU = torch.device("cpu")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "blue", "square"]


@pytest.fixture(scope="module")
def judge_dir(tiny_blip: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagereward")
    write_imagereward(tiny_blip, folder, tokenizer=_tokenizer_of(WORDS), vision_heads=2, text_heads=2)
    return folder


def test_reward_is_the_head_on_cls_normalised(judge_dir: Path, pictures: list[Image.Image]) -> None:
    prompts = ["a red circle", "a blue square", "a RED circle"]
    scorer = ImageRewardScorer(judge_dir, ImageReward(), weights_digest="0" * 64, device=CPU)
    scores, blip = scorer.score(pictures, prompts), _Blip(judge_dir, CPU)
    weights = load_file(judge_dir / "model.safetensors")
    hidden = blip.features(pictures, prompts) @ weights["head.layers.0.weight"].T + weights["head.layers.0.bias"]
    raw = (hidden @ weights["head.layers.7.weight"].T + weights["head.layers.7.bias"])[:, 0]
    torch.testing.assert_close(scores, (raw - MEAN) / DEVIATION)
    assert scores.shape == (3,)
    assert scorer.score([], []).shape == (0,)


def test_the_score_depends_on_the_image_and_on_the_prompt(judge_dir: Path, pictures: list[Image.Image]) -> None:
    scorer = ImageRewardScorer(judge_dir, ImageReward(), weights_digest="0" * 64, device=CPU)
    one, other = pictures[:2]
    scores = scorer.score([one, other, one], ["a red circle", "a red circle", "a blue square"])
    assert len({round(value, 5) for value in scores.tolist()}) == 3
    torch.testing.assert_close(scorer.score([one], ["a red circle"]), scores[:1])


def test_the_35th_token_is_the_last(judge_dir: Path) -> None:
    tokens = _Blip(judge_dir, CPU).tokens(["red " * 50, "a red circle"])
    assert tokens.input_ids.shape == (2, 35)
    assert tokens.input_ids[0, -1] == WORDS.index("[SEP]")
    assert tokens.input_ids[1, :6].tolist() == [2, 5, 6, 7, 3, 0]


def test_an_odd_margin_is_rounded_to_even() -> None:
    # Width 5, height 8, side 5: 3 rows too many; the margin of 1.5 above rounds to 2.
    image = Image.new("L", (5, 8))
    for row in range(8):
        image.paste(row, (0, row, 5, row + 1))
    assert np.asarray(_centre_square(image, 5))[:, 0].tolist() == [2, 3, 4, 5, 6]
    # Height 9: 4 rows too many, 2 above.
    assert _centre_square(Image.new("L", (5, 9)), 5).size == (5, 5)


def test_weights_that_do_not_fit_are_named(judge_dir: Path, tmp_path: Path) -> None:
    for path in judge_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(judge_dir / "model.safetensors")
    del weights["vision.post_layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"do not fit config\.json"):
        _Blip(tmp_path, CPU)
    weights = load_file(judge_dir / "model.safetensors")
    save_file(weights | {"itm_head.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 unused weights \(itm_head\.weight\)"):
        _Blip(tmp_path, CPU)
    del weights["head.layers.7.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks layers\.7\.bias"):
        _Blip(tmp_path, CPU)
