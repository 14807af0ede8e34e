"""A trained head becomes a judge: a folder that scores images as the head scores their embeddings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alignment.catalogues.rewards import Pal
from alignment.contracts.judges import Judge
from alignment.contracts.reward_models import BradleyTerry, Head, PalA, PalB
from alignment.files.durable import content_digest
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.interface import load_scorer
from alignment.rewards.pal import PalScorer, _read_head, write_head, write_judge
from alignment.rewards.pal_head import PreferenceHead

pytestmark = pytest.mark.timeout(180)
CPU = torch.device("cpu")


def head_of(params: Head) -> PreferenceHead:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return PreferenceHead(params, 8, 8, num_users=2).eval()


def judge(folder: Path, clip_dir: Path, params: Head, mixture: tuple[float, ...]) -> PalScorer:
    write_judge(head_of(params), mixture, clip_dir, folder)
    entry = Judge(name="pal", scorer=Pal(), weights_digest=content_digest(folder))
    scorer = load_scorer(entry, folder, CPU)
    assert isinstance(scorer, PalScorer)
    return scorer


@pytest.mark.parametrize(
    ("params", "mixture"), [(PalA(), (0.25, 0.75)), (PalB(), (0.25, 0.75)), (BradleyTerry(), (1.0,))]
)
def test_a_judge_scores_as_its_head_does(
    tmp_path: Path,
    tiny_clip_dir: Path,
    pictures: list[Image.Image],
    captions: list[str],
    params: Head,
    mixture: tuple[float, ...],
) -> None:
    scores = judge(tmp_path / "judge", tiny_clip_dir, params, mixture).score(pictures, captions)
    head, clip = head_of(params), ClipModel(tiny_clip_dir, CPU)
    points = head.points_of(torch.tensor([mixture] * 3), clip.embed_texts(captions))
    torch.testing.assert_close(scores, head.scores(clip.embed_images(pictures), points).detach())
    assert scores.dtype == torch.float32
    assert not scores.requires_grad


def test_scores_depend_on_the_mixture(
    tmp_path: Path, tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    one, other = (judge(tmp_path / str(weight), tiny_clip_dir, PalB(), (weight, 1 - weight)) for weight in (0.0, 1.0))
    assert not torch.allclose(one.score(pictures, captions), other.score(pictures, captions))
    assert one.digest != other.digest


def test_a_repeated_prompt_scores_as_in_a_batch_of_one(
    tmp_path: Path, tiny_clip_dir: Path, pictures: list[Image.Image], captions: list[str]
) -> None:
    scorer = judge(tmp_path / "judge", tiny_clip_dir, PalB(), (0.5, 0.5))
    together = scorer.score(pictures, [captions[0], captions[1], captions[0]])
    alone = scorer.score(pictures[2:], captions[:1])
    torch.testing.assert_close(together[2:], alone)
    assert scorer.score([], []).shape == (0,)
    with pytest.raises(ValueError, match="3 images for 1 prompts"):
        scorer.score(pictures, captions[:1])


def test_a_judge_holds_no_users_but_a_head_does(tmp_path: Path, tiny_clip_dir: Path) -> None:
    write_judge(head_of(PalB()), (0.5, 0.5), tiny_clip_dir, tmp_path / "judge")
    write_head(head_of(PalB()), ["ann", "bob"], tmp_path / "head")
    assert "ann" not in (tmp_path / "judge" / "head.json").read_text()
    assert "user_logits_UK" not in load_file(tmp_path / "judge" / "head.safetensors")
    assert len(_read_head(tmp_path / "judge")[0].user_logits_UK) == 0
    head, file = _read_head(tmp_path / "head")
    assert file.users == ("ann", "bob")
    assert torch.equal(head.user_logits_UK, head_of(PalB()).user_logits_UK)
    with pytest.raises(ValueError, match="states no mixture"):
        PalScorer(tmp_path / "head", Pal(), weights_digest="0" * 64, device=CPU)


def test_equal_heads_give_equal_bytes(tmp_path: Path, tiny_clip_dir: Path) -> None:
    for name in ("one", "two"):
        write_judge(head_of(PalB()), (0.5, 0.5), tiny_clip_dir, tmp_path / name)
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")


@pytest.mark.parametrize("mixture", [(0.5, 0.6), (1.5, -0.5), (1.0,)])
def test_an_invalid_mixture_is_refused(tmp_path: Path, tiny_clip_dir: Path, mixture: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be 2 weights of at least 0 that add up to 1"):
        write_judge(head_of(PalB()), mixture, tiny_clip_dir, tmp_path / "judge")


def test_an_incomplete_folder_is_refused(tmp_path: Path, tiny_clip_dir: Path) -> None:
    folder = tmp_path / "judge"
    write_judge(head_of(PalB()), (0.5, 0.5), tiny_clip_dir, folder)
    settings = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps(settings | {"image_width": 9, "text_width": 9}))
    with pytest.raises(ValueError, match=r"head\.safetensors does not fit head\.json"):
        _read_head(folder)
    (folder / "head.json").write_text(json.dumps(settings | {"heads": 1}))
    with pytest.raises(ValueError, match=r"Unknown field .heads.\. Did you mean .head."):
        _read_head(folder)
    (folder / "head.json").write_text(json.dumps(settings))
    weights = load_file(folder / "head.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[1:]}, folder / "head.safetensors")
    with pytest.raises(ValueError, match=r"(?s)does not fit head\.json.*Missing key"):
        PalScorer(folder, Pal(), weights_digest="0" * 64, device=CPU)
    (folder / "head.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks head\.safetensors"):
        _read_head(folder)
    shutil.rmtree(folder / "embedder")
    with pytest.raises(ValueError, match="lacks"):
        PalScorer(folder, Pal(), weights_digest="0" * 64, device=CPU)
