"""The forty candidates: their kinds, and weights along a line."""

from collections import Counter
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from alignment.config import load_recipe


@pytest.fixture(scope="module")
def forty(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("candidates")


def test_forty_of_six_kinds_the_first_six_of_each(forty: ModuleType) -> None:
    found = forty.candidates()
    assert len({candidate.name for candidate in found}) == 40
    assert len({candidate.kind for candidate in found[:6]}) == 6
    assert min(Counter(candidate.kind for candidate in found).values()) >= 5
    assert {candidate.training for candidate in found} == {*forty.TRAININGS, forty.NOISE}


def test_every_training_is_a_recipe_and_only_the_flipped_one_swaps_labels(forty: ModuleType) -> None:
    recipes = {name: load_recipe(own.recipe, own.overrides) for name, own in forty.TRAININGS.items()}
    assert [name for name, recipe in recipes.items() if recipe.flip_labels] == ["flipped"]


def test_a_candidate_trained_on_a_judge_declares_it(forty: ModuleType) -> None:
    trained_on_a_judge = {name for name, own in forty.TRAININGS.items() if "taste_a" in own.training_sources}
    assert trained_on_a_judge == {"votes", "pleasing"}


def test_weights_lie_on_the_line_through_base_and_trained(forty: ModuleType) -> None:
    base, trained = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 1.0])}
    assert forty.interpolate(base, trained, 0.5)["w"].tolist() == [2.0, 1.5]
    assert forty.interpolate(base, trained, 2)["w"].tolist() == [5.0, 0.0]
    with pytest.raises(ValueError, match="different tensors"):
        forty.interpolate(base, {"v": torch.zeros(2)}, 1)


def test_noise_is_a_share_of_each_tensors_spread(forty: ModuleType) -> None:
    base = {"w": torch.linspace(-100, 100, 10_000), "constant": torch.ones(5)}
    found = forty.noisy(base, 0.01, seed=1)
    spread = (found["w"] - base["w"]).std() / base["w"].std()
    assert spread.item() == pytest.approx(0.01, rel=0.05)
    assert found["constant"].tolist() == [1.0] * 5
    assert not torch.equal(forty.noisy(base, 0.01, seed=2)["w"], found["w"])
