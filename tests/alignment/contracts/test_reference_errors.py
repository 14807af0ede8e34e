"""The recipes that share the base's errors, and those that do not."""

from typing import Any

import pytest

from alignment.catalogues.objectives import DCPO, PRDP, SFT, DiffusionDPO, MaPO
from alignment.config import load_recipe
from alignment.contracts.reference_errors import SHARED_PRECISIONS, may_share, reference_spec, sharing
from alignment.contracts.training import FullFineTune, Lora, Recipe, TrainSpec

RECIPE = load_recipe("diffusion_dpo_lora_shapes")


def key(recipe: Recipe, base: str = "b" * 64, cache: str = "c" * 64) -> str:
    spec = reference_spec(TrainSpec(recipe=recipe, base_digest=base, cache_digest=cache))
    assert spec is not None
    return spec.key


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"objective": DiffusionDPO(beta=1.0, link="ipo")},
        {"tuning": Lora(rank=64, alpha=1, target_modules=("to_k",))},
        {"optimiser": RECIPE.optimiser.model_copy(update={"learning_rate": 1.0})},
        {"global_batch": RECIPE.global_batch + 1},
        {"steps": RECIPE.steps + 1},
        {"max_grad_norm": 7.0},
        {"flip_labels": True},
        {"selected_by": ("judge",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_recipe_does_with_the_errors_does_not_separate_it(change: dict[str, Any]) -> None:
    assert key(RECIPE.model_copy(update=change)) == key(RECIPE)
    assert sharing([RECIPE, RECIPE.model_copy(update=change)]) == [[0, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": RECIPE.seed + 1},
        {"caption_dropout": 0.5},
        {"objective": DCPO()},
        {"tuning": FullFineTune()},
        {"backbone": RECIPE.backbone.model_copy(update={"resolution": 128})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_errors_separates_recipes(change: dict[str, Any]) -> None:
    assert key(RECIPE.model_copy(update=change)) != key(RECIPE)
    assert sharing([RECIPE, RECIPE.model_copy(update=change)]) == []


def test_base_and_cache_are_part_of_the_key() -> None:
    assert len({key(RECIPE), key(RECIPE, base="d" * 64), key(RECIPE, cache="d" * 64)}) == 3


def test_the_number_of_visits_is_part_of_the_digest_and_not_of_the_key() -> None:
    longer = RECIPE.model_copy(update={"steps": 2 * RECIPE.steps})
    specs = [
        reference_spec(TrainSpec(recipe=one, base_digest="b" * 64, cache_digest="c" * 64)) for one in (RECIPE, longer)
    ]
    first, second = [spec for spec in specs if spec is not None]
    assert (first.common.steps, second.common.steps) == (RECIPE.steps * RECIPE.global_batch, 2 * first.common.steps)
    assert first.digest != second.digest
    assert first.key == second.key


@pytest.mark.parametrize("change", [{"objective": SFT()}, {"objective": MaPO()}, {"precision": "bf16"}])
def test_recipes_without_a_reference_and_in_other_precisions_share_nothing(change: dict[str, Any]) -> None:
    recipe = RECIPE.model_copy(update=change)
    assert reference_spec(TrainSpec(recipe=recipe, base_digest="b" * 64, cache_digest="c" * 64)) is None
    assert sharing([recipe, recipe]) == []
    assert "bf16" not in SHARED_PRECISIONS


def test_online_recipes_share_nothing() -> None:
    prdp = load_recipe("prdp_shapes")
    assert isinstance(prdp.objective, PRDP)
    assert sharing([prdp, prdp]) == []


def test_groups_keep_the_order_of_the_recipes() -> None:
    other = RECIPE.model_copy(update={"seed": 99})
    alone = RECIPE.model_copy(update={"seed": 100})
    assert sharing([RECIPE, other, alone, RECIPE, other]) == [[0, 3], [1, 4]]


def test_a_field_of_a_later_recipe_prevents_sharing_unless_it_has_its_default() -> None:
    class Later(Recipe):
        """A recipe with one more field."""

        storage: str = "fp32"

    fields = dict(RECIPE)
    assert may_share(Later.model_validate(fields))
    assert not may_share(Later.model_validate({**fields, "storage": "int8"}))
