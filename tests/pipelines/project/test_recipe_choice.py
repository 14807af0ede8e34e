"""The recipe of a new project: of its family and resolution, with a batch and steps that few pairs allow."""

import pytest

from alignment.catalogues.backbones import SDXL, Backbone, Flux, StableDiffusion, StableDiffusion3
from alignment.catalogues.optimisers import AdamW
from alignment.config import load_recipe
from alignment.contracts.training import Lora
from pipelines.project.recipe_choice import ChosenRecipe, choose_recipe

MANY = 850_000
CASES: list[tuple[Backbone, str]] = [
    (StableDiffusion(resolution=64), "diffusion_dpo_shapes"),
    (StableDiffusion(), "diffusion_dpo_lora_sd21_pickapic"),
    (SDXL(), "diffusion_dpo_sdxl_pickapic"),
    (StableDiffusion3(), "diffusion_dpo_lora_sd35_pickapic"),
    (Flux(), "diffusion_dpo_lora_flux_pickapic"),
]


@pytest.mark.parametrize(("backbone", "recipe"), CASES, ids=[recipe for _, recipe in CASES])
def test_each_family_has_its_recipe_unchanged_when_there_are_many_pairs(backbone: Backbone, recipe: str) -> None:
    assert choose_recipe(backbone, MANY) == ChosenRecipe(recipe=recipe)


@pytest.mark.parametrize(
    "backbone",
    [StableDiffusion(resolution=768), SDXL(resolution=64), StableDiffusion3(resolution=64), Flux(resolution=96)],
)
@pytest.mark.parametrize("num_pairs", [0, 1, 18, 400, MANY])
def test_another_resolution_and_few_pairs_give_a_valid_recipe(backbone: Backbone, num_pairs: int) -> None:
    chosen = choose_recipe(backbone, num_pairs)
    recipe = load_recipe(chosen.recipe, chosen.overrides)
    assert (recipe.backbone.name, recipe.backbone.resolution) == (backbone.name, backbone.resolution)
    assert recipe.global_batch == 1 or recipe.global_batch <= num_pairs / 2
    assert recipe.steps * recipe.global_batch <= max(20 * num_pairs + recipe.global_batch, 10 * recipe.global_batch)
    assert recipe.optimiser.warmup_steps <= recipe.steps


def test_few_pairs_give_a_small_batch_few_steps_and_adapters() -> None:
    chosen = choose_recipe(SDXL(), 18)
    assert chosen.fitted
    assert chosen.overrides[:2] == ("global_batch=8", "steps=45")
    recipe = load_recipe(chosen.recipe, chosen.overrides)
    assert (recipe.tuning, recipe.optimiser) == (Lora(rank=8, alpha=8), AdamW(learning_rate=1e-5))
    assert choose_recipe(StableDiffusion(resolution=64), 18).overrides == (
        "global_batch=8",
        "steps=45",
        "optimiser.warmup_steps=4",
    )


def test_a_square_smaller_than_the_step_of_the_buckets_is_cut_square() -> None:
    chosen = choose_recipe(StableDiffusion3(resolution=64), MANY)
    assert load_recipe(chosen.recipe, chosen.overrides).backbone.resolution == 64
    with pytest.raises(ValueError, match="step"):
        load_recipe(chosen.recipe, ["backbone.resolution=64", "images.step_pixels=128"])
