"""Judges that were fine-tuned from one encoder are found by their weights."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignment.catalogues.rewards import ClipHead, ClipPreference, ClipScore, PickScore, RewardParams
from pipelines.dispatch.encoders import shared_encoders

JUDGES = Path(__file__).parents[3] / "examples/shapes/judges"
LOCAL = ClipPreference()


def fine_tuned(folder: Path, of: str, *, noise: float = 0.3, dtype: str = "float32", part: str = "") -> Path:
    """Write the weights of a shipped judge after a change of this share of their size."""
    rng = np.random.default_rng(0)
    (folder / part).mkdir(parents=True)
    weights = load_file(JUDGES / of / "model.safetensors")
    moved = {k: v + noise * v.std() * rng.standard_normal(v.shape) if v.ndim else v for k, v in weights.items()}
    if dtype == "bfloat16":
        import torch
        from safetensors.torch import save_file as save_torch

        save_torch({k: torch.tensor(v).bfloat16() for k, v in moved.items()}, folder / part / "model.safetensors")
    else:
        save_file({k: v.astype(dtype) for k, v in moved.items()}, folder / part / "model.safetensors")
    return folder


def shipped(name: str, scorer: RewardParams = LOCAL) -> tuple[Path, RewardParams]:
    return JUDGES / name, scorer


def test_judges_trained_from_different_starts_share_nothing() -> None:
    judges = {"a": shipped("taste_a"), "b": shipped("taste_b"), "c": shipped("caption_match", ClipScore())}
    assert shared_encoders(judges) == {}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_fine_tuned_copy_shares_the_family_of_its_first_judge(tmp_path: Path, dtype: str) -> None:
    copy = fine_tuned(tmp_path / "copy", "taste_a", dtype=dtype)
    judges = {"b": shipped("taste_b"), "a": shipped("taste_a"), "copy": (copy, LOCAL)}
    assert shared_encoders(judges) == {"a": "a", "copy": "a"}


def test_the_family_of_published_weights_gives_the_name(tmp_path: Path) -> None:
    copy = fine_tuned(tmp_path / "copy", "taste_a")
    assert shared_encoders({"own": shipped("taste_a"), "pickscore": (copy, PickScore())}) == {
        "own": "clip_vit_h_14",
        "pickscore": "clip_vit_h_14",
    }


def test_the_encoder_of_a_head_is_compared(tmp_path: Path) -> None:
    head = fine_tuned(tmp_path / "head", "taste_a", noise=0.0, part="embedder")
    assert shared_encoders({"a": shipped("taste_a"), "head": (head, ClipHead())}) == {"a": "a", "head": "a"}


def test_two_families_are_joined_by_a_judge_that_resembles_both(tmp_path: Path) -> None:
    first, second = fine_tuned(tmp_path / "first", "taste_a", noise=1.4), fine_tuned(tmp_path / "second", "taste_a")
    found = shared_encoders({"first": (first, LOCAL), "second": (second, LOCAL), "a": shipped("taste_a")})
    assert set(found.values()) == {next(iter(found.values()))}
    assert set(found) == {"first", "second", "a"}
