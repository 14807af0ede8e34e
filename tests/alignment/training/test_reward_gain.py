"""Reward against the base: same prompts and noise for both, shares that add up, the steps of measurements."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignment.data.prompt_lines import PromptLines
from alignment.training.reward_gain import GAIN_PROMPTS, RewardGain, is_measured


@dataclass
class Drawing:
    """Rewards that are a number of the noise plus what the predictor is worth; remembers what it was asked for."""

    asked: list[tuple[float, tuple[str, ...], Tensor]] = field(default_factory=list)

    def __call__(self, predict: Any, prompts: tuple[str, ...], noise_BSCHW: Tensor) -> Tensor:
        self.asked.append((predict, tuple(prompts), noise_BSCHW))
        return noise_BSCHW.flatten(1)[:, 0] * predict


def gain_of(tmp_path: Path, drawing: Drawing, *, count: int = 40, rank: int = 0, world: int = 1) -> RewardGain:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"prompt {number}\n" for number in range(count)))
    return RewardGain(
        PromptLines(path), drawing, seed=3, noise_shape=(2, 1, 2, 2), most_images=3, process=(rank, world)
    )


def test_policy_and_reference_get_the_same_prompts_and_the_same_noise(tmp_path: Path) -> None:
    drawing = Drawing()
    gain = gain_of(tmp_path, drawing).part(2.0, 1.0)  # type: ignore[arg-type]
    ours, theirs = ([seen[1:] for seen in drawing.asked if seen[0] == worth] for worth in (2.0, 1.0))
    assert [prompts for prompts, _ in ours] == [prompts for prompts, _ in theirs]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    noise_B = torch.cat([noise for _, noise in ours])
    torch.testing.assert_close(torch.tensor(gain), noise_B.flatten(1)[:, 0].mean(), check_dtype=False)
    prompts = [prompt for some, _ in ours for prompt in some]
    assert len(set(prompts)) == len(prompts) == GAIN_PROMPTS == 32
    assert len(noise_B.unique(dim=0)) == GAIN_PROMPTS
    assert max(len(some) for some, _ in ours) == 3


def test_the_reference_is_drawn_once_and_equal_weights_gain_nothing(tmp_path: Path) -> None:
    drawing = Drawing()
    gain = gain_of(tmp_path, drawing)
    assert gain.part(1.0, 1.0) == 0.0  # type: ignore[arg-type]
    before = len(drawing.asked)
    first, second = (gain.part(3.0, 1.0) for _ in range(2))  # type: ignore[arg-type]
    assert first == second != 0
    assert len(drawing.asked) - before == before, "two passes of the policy; the first call made one of each"


def test_the_parts_of_processes_add_up_and_their_batches_are_those_of_one(tmp_path: Path) -> None:
    alone = Drawing()
    whole = gain_of(tmp_path, alone).part(2.0, 1.0)  # type: ignore[arg-type]
    drawings = [Drawing() for _ in range(3)]
    parts = [
        gain_of(tmp_path, drawing, rank=rank, world=3).part(2.0, 1.0)  # type: ignore[arg-type]
        for rank, drawing in enumerate(drawings)
    ]
    assert abs(sum(parts) - whole) < 1e-12
    batches = sorted(seen[1] for drawing in drawings for seen in drawing.asked)
    assert batches == sorted(seen[1] for seen in alone.asked)


def test_fewer_prompts_and_more_processes_than_batches(tmp_path: Path) -> None:
    assert gain_of(tmp_path, Drawing(), count=2, rank=1, world=2).part(2.0, 1.0) == 0.0  # type: ignore[arg-type]
    assert gain_of(tmp_path, Drawing(), count=2, rank=0, world=2).part(2.0, 1.0) != 0.0  # type: ignore[arg-type]


def test_a_run_is_measured_about_ten_times_and_at_its_end() -> None:
    assert [done for done in range(65) if is_measured(done, 64)] == [*range(6, 61, 6), 64]
    assert [done for done in range(7) if is_measured(done, 6)] == [1, 2, 3, 4, 5, 6]
    assert sum(is_measured(done, 1000) for done in range(1001)) == 10
