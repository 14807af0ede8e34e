"""Refining judges: repeatable, and restricted to samples that match their caption."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

Load = Callable[[str], ModuleType]
SHAPES = Path(__file__).parents[3] / "examples" / "shapes"


def red_square(at: int) -> np.ndarray:
    image = np.full((64, 64, 3), 255, np.uint8)
    image[at : at + 20, at : at + 20] = (220, 30, 30)
    return image


def test_indifferent_adds_copies_that_differ_in_place_and_vividness_only(shapes_module: Load) -> None:
    refine = shapes_module("refine_judges")
    images = torch.from_numpy(np.stack([red_square(10), red_square(24), red_square(30)]))
    found = refine.Matches(images, torch.arange(3)[:, None], torch.tensor([4, 5, 6]))
    doubled = refine.indifferent(found, np.random.default_rng(0))
    assert torch.equal(doubled.images_NHWC[:3], images)
    assert doubled.caption_rows.tolist() == [4, 5, 6, 4, 5, 6]
    for before, after in zip(images, doubled.images_NHWC[3:], strict=True):
        assert not torch.equal(before, after)
        assert after[0, 0].tolist() == [255, 255, 255]
        areas = [int((image.amin(-1) < 200).sum()) for image in (before, after)]
        assert areas[0] == areas[1]


def test_only_samples_that_show_the_prompt_are_used(shapes_module: Load) -> None:
    refine, world, networks = (shapes_module(name) for name in ("refine_judges", "world", "networks"))
    prompts = ["a large red square on a white background", "a large blue ring on a navy background"]
    rng = np.random.default_rng(1)
    right = world.render(prompts, rng)
    wrong = world.render(prompts[::-1], rng)
    kept = refine.sampled_matches((prompts, right, wrong), tokenizer=networks.make_tokenizer())
    numbers = {prompt: number for number, prompt in enumerate(world.all_prompts())}
    assert kept.caption_rows.tolist() == [numbers[prompt] for prompt in prompts]
    assert torch.equal(kept.images_NHWC, torch.from_numpy(right))


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_refining_twice_gives_the_same_changed_weights(shapes_module: Load, tmp_path: Path) -> None:
    refine = shapes_module("refine_judges")
    before = (SHAPES / "judges" / "taste_a" / "model.safetensors").read_bytes()
    after = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "judges").mkdir(parents=True)
        (folder / "base").symlink_to(SHAPES / "base")
        shutil.copytree(SHAPES / "judges" / "taste_a", folder / "judges" / "taste_a")
        refine.refine_judge(folder, "taste_a", num_samples=80, steps=2)
        after.append((folder / "judges" / "taste_a" / "model.safetensors").read_bytes())
    assert after[0] == after[1]
    assert after[0] != before
