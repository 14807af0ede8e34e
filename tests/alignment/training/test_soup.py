"""Averages of weights: hand-computed numbers, kept ingredients, and weights that must not be mixed."""

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from alignment.contracts.soup import recipe_family
from alignment.contracts.training import FullFineTune, Lora, Recipe
from alignment.files.tensors import write_tensors
from alignment.training.soup import (
    Ingredient,
    _by_score,
    check_ingredients,
    greedy_soup,
    uniform_soup,
    write_soup,
)

BASE, FAMILY = "a" * 64, "family"


def weights(value: float, dtype: torch.dtype = torch.float32) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"w": torch.tensor([value, -value], dtype=dtype), "steps": torch.tensor(int(value))}


def distance_to(target: float) -> Callable[[Mapping[str, Tensor]], float]:
    """A score that is highest at w = target."""
    return lambda soup: -abs(soup["w"][0].item() - target)


def test_uniform_is_the_mean_and_integers_are_those_of_the_first() -> None:
    soup = uniform_soup([weights(1), weights(2), weights(6)])
    torch.testing.assert_close(soup["w"], torch.tensor([3.0, -3.0]))
    assert soup["steps"].dtype == torch.int64
    assert soup["steps"].item() == 1


def test_half_precision_is_summed_in_float32_and_cast_once() -> None:
    """2048 + 1 is 2048 in float16: a sum kept there would lose every one of the small ingredients."""
    soup = uniform_soup([weights(2048, torch.float16), *[weights(1, torch.float16)] * 7])
    assert soup["w"].dtype == torch.float16
    assert soup["w"][0] == torch.tensor((2048 + 7) / 8).half() != 256


def test_greedy_keeps_only_what_improves() -> None:
    """Scores of 4, 1, 9 alone against a target of 3: 4 is best, 1 brings the mean to 2.5, 9 would spoil it."""
    values = (4.0, 1.0, 9.0)
    score = distance_to(3.0)
    soup = greedy_soup([weights(v) for v in values], [score(weights(v)()) for v in values], score)
    assert soup.ingredients == (0, 1)
    assert soup.weights["w"][0].item() == 2.5
    assert soup.score == -0.5
    assert [(a.ingredient, a.kept) for a in soup.attempts] == [(1, True), (2, False)]
    assert soup.attempts[1].score == pytest.approx(-abs(14 / 3 - 3))


def test_a_gain_below_the_minimum_does_not_count() -> None:
    score = distance_to(3.0)
    models, alone = [weights(4), weights(1)], [-1.0, -2.0]
    assert greedy_soup(models, alone, score, minimum_gain=0.499).ingredients == (0, 1)
    assert greedy_soup(models, alone, score, minimum_gain=0.5).ingredients == (0,)


def test_an_equal_score_does_not_count_as_a_gain() -> None:
    same = [weights(2)] * 3
    soup = greedy_soup(same, [1.0, 1.0, 1.0], lambda _: 1.0)
    assert soup.ingredients == (2,)
    assert not any(attempt.kept for attempt in soup.attempts)


def test_ties_come_in_reverse_order() -> None:
    assert _by_score([0.5, 0.7, 0.5, 0.7]) == [3, 1, 2, 0]


@pytest.mark.parametrize(("alone", "mixed"), [([1.0, math.nan], 1.0), ([1.0, 0.5], math.nan)])
def test_a_score_that_is_not_finite_is_refused(alone: list[float], mixed: float) -> None:
    with pytest.raises(
        ValueError, match=r"finite validation scores, but (ingredient 1|the soup with ingredient 1) has nan"
    ):
        greedy_soup([weights(1), weights(2)], alone, lambda _: mixed)


# --- folders ----------------------------------------------------------------------------------------------------------


def ingredient(folder: Path, value: float, *, rank: int = 2, base: str = BASE, family: str = FAMILY) -> Ingredient:
    """An adapter file in a subfolder, with a configuration beside it."""
    (folder / "unet").mkdir(parents=True)
    tensors = {"lora_A.weight": torch.full((rank, 3), value), "lora_B.weight": torch.full((3, rank), -value)}
    write_tensors(folder / "unet" / "adapter.safetensors", tensors, {"alpha": "4"})
    (folder / "unet" / "config.json").write_text("{}")
    return Ingredient(folder.name, folder, base, family)


def test_a_soup_folder_has_the_layout_of_its_ingredients(tmp_path: Path) -> None:
    mixed = [ingredient(tmp_path / "one", 1.0), ingredient(tmp_path / "two", 2.0)]
    check_ingredients(mixed)
    write_soup(uniform_soup([part.read for part in mixed]), mixed[0], tmp_path / "soup")
    assert (tmp_path / "soup" / "unet" / "config.json").read_text() == "{}"
    file = tmp_path / "soup" / "unet" / "adapter.safetensors"
    torch.testing.assert_close(load_file(file)["lora_A.weight"], torch.full((2, 3), 1.5))
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["alpha"] == "4"


def test_a_soup_with_a_weight_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    mixed = [ingredient(tmp_path / "one", 1.0), ingredient(tmp_path / "two", math.nan)]
    with pytest.raises(ValueError, match=r"The soup has 2 weights with values that are not finite, such as unet/adapt"):
        write_soup(uniform_soup([part.read for part in mixed]), mixed[0], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_every_reason_that_prevents_a_soup_is_in_one_error(tmp_path: Path) -> None:
    first = ingredient(tmp_path / "first", 1.0)
    other_base = ingredient(tmp_path / "other_base", 1.0, base="b" * 64)
    other_rank = ingredient(tmp_path / "other_rank", 1.0, rank=3, family="else")
    fewer = ingredient(tmp_path / "fewer", 1.0)
    write_tensors(fewer.weights_dir / "unet" / "adapter.safetensors", {"lora_A.weight": torch.ones(2, 3)})
    other_alpha = ingredient(tmp_path / "other_alpha", 1.0)
    write_tensors(other_alpha.tensor_files()[0], load_file(first.tensor_files()[0]), {"alpha": "8"})
    with pytest.raises(ValueError, match="cannot be averaged") as caught:
        check_ingredients([first, other_base, other_rank, fewer, other_alpha])
    message = str(caught.value)
    assert "other_base against first: base bbbbbbbbbbbb, not aaaaaaaaaaaa" in message
    assert "other_rank against first: recipe family else, not family; " in message
    assert "other_rank against first: 2 tensors differ, such as unet/adapter.safetensors:" in message
    assert "lora_A.weight: F32 [3, 3], not F32 [2, 3]" in message
    assert (
        "fewer against first: 1 tensors missing and 0 too many, such as unet/adapter.safetensors:lora_B.weight"
        in message
    )
    assert "other_alpha against first: different settings in unet/adapter.safetensors" in message


def test_fewer_than_two_ingredients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two ingredients or more, got 1"):
        check_ingredients([ingredient(tmp_path / "one", 1.0)])
    empty = ingredient(tmp_path / "empty", 1.0)
    shutil.rmtree(empty.weights_dir / "unet")
    with pytest.raises(ValueError, match="holds no safetensors file"):
        check_ingredients([empty, empty])


def test_a_family_shares_the_trained_weights_but_not_the_number_of_steps() -> None:
    fields = {
        "name": "x",
        "backbone": {"name": "stable_diffusion", "resolution": 64},
        "objective": {"name": "diffusion_dpo"},
        "tuning": FullFineTune().model_dump(),
        "optimiser": {"learning_rate": 1e-5},
        "global_batch": 4,
        "steps": 10,
        "seed": 1,
    }

    def family(**changes: object) -> str:
        return recipe_family(Recipe.model_validate(fields | changes))

    assert family() == family(
        steps=20, seed=2, optimiser={"learning_rate": 2e-5}, objective={"name": "diffusion_dpo", "beta": 9.0}
    )
    assert family() != family(objective={"name": "sft"})
    adapters = Lora().model_dump()
    assert family(tuning=adapters) != family()
    assert family(tuning=adapters) != family(tuning=adapters, seed=2)
    assert family(tuning=adapters) == family(tuning=adapters, steps=20)
