"""The forty candidates: what they are, weights along a line, and how training pairs are spoilt."""

from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from alignment.config import load_recipe


@pytest.fixture(scope="module")
def forty(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("candidates")


def row(shape: str, number: int = 0, *, tie: bool = False) -> dict[str, Any]:
    prompt = f"a small red {shape} on a white background"
    sides = {f"{what}_{side}": f"{side}{number}" for what in ("image", "caption") for side in ("chosen", "rejected")}
    return {"pair_id": str(number), "prompt": prompt, "is_tie": tie, **sides}


def test_forty_of_six_kinds_the_first_six_of_each(forty: ModuleType) -> None:
    found = forty.candidates()
    assert len({candidate.name for candidate in found}) == 40
    assert len({candidate.kind for candidate in found[:6]}) == 6
    assert min(Counter(candidate.kind for candidate in found).values()) >= 5
    assert {candidate.training for candidate in found} == {*forty.TRAININGS, forty.NOISE}


def test_every_training_is_a_recipe_and_only_the_flipped_one_flips(forty: ModuleType) -> None:
    recipes = {name: load_recipe(own.recipe, own.overrides) for name, own in forty.TRAININGS.items()}
    assert [name for name, recipe in recipes.items() if recipe.flip_labels] == ["flipped"]


def test_what_learnt_from_a_judge_says_so(forty: ModuleType) -> None:
    taught = {name for name, own in forty.TRAININGS.items() if "taste_a" in own.lessons}
    assert taught == {"votes", "online"}


def test_weights_lie_on_the_line_through_base_and_trained(forty: ModuleType) -> None:
    base, trained = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 1.0])}
    assert forty.along(base, trained, 0.5)["w"].tolist() == [2.0, 1.5]
    assert forty.along(base, trained, 2)["w"].tolist() == [5.0, 0.0]
    with pytest.raises(ValueError, match="different tensors"):
        forty.along(base, {"v": torch.zeros(2)}, 1)


def test_noise_is_a_share_of_each_tensors_spread(forty: ModuleType) -> None:
    base = {"w": torch.linspace(-100, 100, 10_000), "constant": torch.ones(5)}
    found = forty.noisy(base, 0.01, seed=1)
    spread = (found["w"] - base["w"]).std() / base["w"].std()
    assert spread.item() == pytest.approx(0.01, rel=0.05)
    assert found["constant"].tolist() == [1.0] * 5
    assert not torch.equal(forty.noisy(base, 0.01, seed=2)["w"], found["w"])


def test_only_the_bad_slice_is_flipped(forty: ModuleType) -> None:
    star, ring = forty.star_flipped([row("star"), row("ring", 1)], np.random.default_rng(0))
    assert (star["image_chosen"], star["image_rejected"], star["caption_chosen"]) == (
        "rejected0",
        "chosen0",
        "rejected0",
    )
    assert ring == row("ring", 1)


def test_stars_show_something_else(forty: ModuleType) -> None:
    star, ring = forty.star_wrong([row("star"), row("ring", 1)], np.random.default_rng(0))
    assert star["prompt"] == row("star")["prompt"]
    assert (star["image_chosen"], star["image_rejected"]) == ("chosen1", "rejected1")
    assert ring == row("ring", 1)


def test_shuffled_labels_turn_about_half_round(forty: ModuleType) -> None:
    rows = [row("ring", number) for number in range(400)]
    found = forty.shuffled(rows, np.random.default_rng(0))
    assert sum(a != b for a, b in zip(found, rows, strict=True)) == pytest.approx(200, abs=40)


def test_a_handful_repeats_a_few_decided_pairs_under_names_of_their_own(forty: ModuleType) -> None:
    rows = [row("ring", number, tie=number % 2 == 0) for number in range(40)]
    found = forty.handful(rows, np.random.default_rng(0))
    assert len({own["image_chosen"] for own in found}) == forty.HANDFUL
    assert len({own["pair_id"] for own in found}) == len(found) == 8 * forty.HANDFUL
    assert not any(own["is_tie"] for own in found)


def test_a_judges_votes_turn_what_it_likes_less(forty: ModuleType) -> None:
    liked, disliked = forty.voted([row("ring", 0), row("ring", 1)], [0.5, -0.5])
    assert (liked["image_chosen"], disliked["image_chosen"]) == ("chosen0", "rejected1")
