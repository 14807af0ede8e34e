"""The oracle's comparison of two image sets, by function and by command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def world(shapes_module: Load) -> ModuleType:
    return shapes_module("world")


@pytest.fixture(scope="module")
def check(shapes_module: Load) -> ModuleType:
    return shapes_module("check_oracle")


def _pair(world: ModuleType, drawing: ModuleType, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    subject = world.parse_caption(prompt)
    vivid, pale = drawing.draw([drawing.Scene(subject), drawing.Scene(subject, vividness=0.3, softness=4.0)])
    return vivid, pale


def test_wins_are_counted_by_prompt_with_draws_as_half(
    check: ModuleType, world: ModuleType, shapes_module: Load
) -> None:
    prompts = list(world.heldout_prompts()[:8])
    pairs = [_pair(world, shapes_module("drawing"), prompt) for prompt in prompts]
    better, worse = ([pair[side] for pair in pairs] for side in (0, 1))
    won = check.compare(better, worse, prompts)
    assert (won.win_rate, won.low, won.high, won.num_prompts) == (1.0, 1.0, 1.0, 8)
    assert check.compare(worse, better, prompts).win_rate == 0.0
    assert check.compare(better, better, prompts).win_rate == 0.5
    mixed = check.compare(better[:6] + worse[6:], worse[:6] + better[6:], prompts)
    assert mixed.win_rate == 0.75
    assert mixed.low < 0.75 < mixed.high


def test_seeds_of_a_prompt_are_averaged_before_they_are_compared(
    check: ModuleType, world: ModuleType, shapes_module: Load
) -> None:
    prompt = world.heldout_prompts()[0]
    better, worse = _pair(world, shapes_module("drawing"), prompt)
    result = check.compare([better, better, worse], [worse, worse, better], [prompt] * 3)
    assert (result.win_rate, result.num_prompts) == (1.0, 1)


def test_unequal_counts_are_refused(check: ModuleType) -> None:
    with pytest.raises(ValueError, match="got 0 and 0 images for 1 prompts"):
        check.compare([], [], ["a small red circle on a white background"])


def test_the_command_compares_folders(shapes_dir: Path, world: ModuleType, shapes_module: Load, tmp_path: Path) -> None:
    prompts = world.heldout_prompts()[:3]
    (tmp_path / "prompts.tsv").write_text("prompt\tcategory\n" + "".join(f"{prompt}\tx\n" for prompt in prompts))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for index, prompt in enumerate(prompts):
        for name, image in zip("ab", _pair(world, shapes_module("drawing"), prompt), strict=True):
            Image.fromarray(image).save(tmp_path / name / f"{index:04d}_5.png")
    command = [sys.executable, str(shapes_dir / "check_oracle.py"), "a", "b", "prompts.tsv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {"win_rate": 1.0, "low": 1.0, "high": 1.0, "num_prompts": 3}


def test_folders_without_a_common_image_are_refused(check: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No image name is in both"):
        check.compare_folders(tmp_path, tmp_path, ["a small red circle on a white background"])
