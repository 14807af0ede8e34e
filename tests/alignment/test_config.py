"""Invalid recipes are refused with a message that does not repeat the complete recipe."""

from pathlib import Path

import pytest

from alignment.config import RECIPES_DIR, load_recipe
from alignment.training.optimisation import learning_rate


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "prdp_shapes",
            ("images.kind=square", "images.flip=true"),
            "Objective 'prdp' generates its own square images; remove images from the recipe.",
        ),
        (
            "diffusion_dpo_shapes",
            ("images.kind=aspect_buckets", "images.step_pixels=128"),
            "images.step_pixels is 128, above the backbone's resolution of 64.",
        ),
    ],
)
def test_images_that_cannot_be_cut_are_refused(recipe: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        load_recipe(recipe, overrides)
    assert message in str(refused.value)
    assert "got {" not in str(refused.value)


def test_a_recipe_name_cannot_point_to_another_file(tmp_path: Path) -> None:
    shipped = RECIPES_DIR / "sft_shapes.toml"
    (tmp_path / "mine.toml").write_text(shipped.read_text())
    for name in (str(tmp_path / "mine"), "../recipes/sft_shapes", "./sft_shapes", ""):
        with pytest.raises(ValueError, match="Unknown recipe"):
            load_recipe(name)
    assert load_recipe(str(tmp_path / "mine.toml")).name == "mine"


@pytest.mark.parametrize("path", sorted(RECIPES_DIR.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_can_move_the_weights(path: Path) -> None:
    """AdamW and Adafactor move a weight by about the learning rate in a step. Below 5e-5 in all, a thousandth of
    a typical weight, the result is the base model, and a comparison with it says nothing about the method.
    """
    recipe = load_recipe(path.stem)
    moved = sum(learning_rate(step, recipe.optimiser, recipe.steps) for step in range(recipe.steps))
    assert moved > 5e-5


@pytest.mark.parametrize(
    "override",
    [
        'optimiser={kind = "adafactor", learning_rate = 2e-5}',
        'optimiser={"kind": "adafactor", "learning_rate": 2e-5}',
    ],
)
def test_a_table_may_be_replaced_in_toml_or_in_json(override: str) -> None:
    optimiser = load_recipe("diffusion_dpo_shapes", (override,)).optimiser
    assert (optimiser.kind, optimiser.learning_rate, optimiser.warmup_steps) == ("adafactor", 2e-5, 0)


@pytest.mark.parametrize("override", ["tuning=lora", "objective=sft", 'objective={"name": "sft"', "optimiser=3"])
def test_a_table_that_is_replaced_by_a_value_is_refused_with_the_forms(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=rf"{key} is a table\. Set one of its fields, e\.g\. {key}\.FIELD=VALUE"):
        load_recipe("diffusion_dpo_shapes", (override,))
