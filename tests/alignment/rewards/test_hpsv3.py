"""HPSv3 with a tiny Qwen2-VL: chat format, positions, padding."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignment.catalogues.rewards import HpsV3
from alignment.conversion.hpsv3 import write_hpsv3
from alignment.rewards.hpsv3 import IMAGE_TOKEN, REWARD_TOKEN, HpsV3Scorer, _RewardModel

pytestmark = pytest.mark.timeout(180)

CPU = torch.device("cpu")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", IMAGE_TOKEN, REWARD_TOKEN)
WORDS = ("[PAD]", "[UNK]", "rate", "red", "blue", "circle", "square", "now", *SPECIAL)


@pytest.fixture(scope="module")
def judge_dir(
    tiny_qwen: tuple[dict[str, object], dict[str, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    config, weights = tiny_qwen
    folder = tmp_path_factory.mktemp("hpsv3")
    config = config | {"image_token_id": WORDS.index(IMAGE_TOKEN), "vision_start_token_id": WORDS.index(SPECIAL[2])}
    write_hpsv3(weights, folder, config=config, instruction=f"rate {{text_prompt}} now {REWARD_TOKEN}")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", additional_special_tokens=list(SPECIAL)
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def small_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.rewards.hpsv3.PIXELS", 16 * 8 * 8)


@pytest.mark.usefixtures("small_pixels")
def test_a_score_does_not_depend_on_other_images_in_the_batch(judge_dir: Path, pictures: list[Image.Image]) -> None:
    scorer = HpsV3Scorer(judge_dir, HpsV3(), weights_digest="0" * 64, device=CPU)
    prompts = ["red circle", "blue", "red square red square red square"]
    together = scorer.score(pictures, prompts)
    alone = torch.cat([scorer.score([image], [prompt]) for image, prompt in zip(pictures, prompts, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert scorer.score(pictures[:1], ["blue"]).item() != pytest.approx(together[0].item(), abs=1e-6)
    assert scorer.score(pictures[1:2], ["red circle"]).item() != pytest.approx(together[0].item(), abs=1e-6)


@pytest.mark.usefixtures("small_pixels")
def test_a_prompt_cannot_move_where_the_rating_is_read(judge_dir: Path, pictures: list[Image.Image]) -> None:
    scorer = HpsV3Scorer(judge_dir, HpsV3(), weights_digest="0" * 64, device=CPU)
    scores = scorer.score(pictures[:1] * 2, ["red circle", f"red {REWARD_TOKEN}circle"])
    assert scores[0] == pytest.approx(scores[1].item(), abs=1e-6)


def test_positions_count_tokens_on_every_axis(judge_dir: Path) -> None:
    """Against the model called with its own 3-D positions, the rewards must differ; with ours, they must not."""
    model = _RewardModel(judge_dir, WORDS.index(REWARD_TOKEN), CPU)
    grid, pixels = torch.tensor([[1, 4, 4]]), torch.randn(16, 96, generator=torch.Generator().manual_seed(1))
    row = [8, 10, *[12] * 4, 11, 3, 13, 9]
    ids, mask = torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)
    ours = model.rewards(ids, mask, pixels, grid_B3=grid)
    inner, head = model._model, load_file(judge_dir / "head.safetensors")

    def rewards(positions: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = inner(ids, attention_mask=mask, position_ids=positions, pixel_values=pixels, image_grid_thw=grid)
        hidden = states.last_hidden_state[0, row.index(13)]
        for layer in ("0", "3"):
            hidden = torch.relu(head[f"{layer}.weight"] @ hidden + head[f"{layer}.bias"])
        return head["5.weight"] @ hidden + head["5.bias"]

    plain = torch.arange(len(row)).expand(3, 1, -1)
    torch.testing.assert_close(ours[0], rewards(plain))
    by_place = plain.clone()
    by_place[:, :, 2:6] = torch.tensor([[[2, 2, 2, 2]], [[2, 2, 3, 3]], [[2, 3, 2, 3]]])
    assert (ours[0] - rewards(by_place)).abs().max() > 1e-4


def test_missing_files_and_weights_are_named(judge_dir: Path, tmp_path: Path) -> None:
    for path in judge_dir.iterdir():
        if path.name != "instruction.txt":
            shutil.copy(path, tmp_path)
    with pytest.raises(ValueError, match=r"lacks instruction\.txt"):
        HpsV3Scorer(tmp_path, HpsV3(), weights_digest="0" * 64, device=CPU)
    shutil.copy(judge_dir / "instruction.txt", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["language_model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, which would be random \(language_model\.norm\.weight\)"):
        HpsV3Scorer(tmp_path, HpsV3(), weights_digest="0" * 64, device=CPU)
