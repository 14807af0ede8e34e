"""Choose the recipe of a new project by its backbone, and fit it to the number of pairs."""

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.images import buckets_of
from alignment.config import load_recipe
from alignment.contracts.training import Recipe
from alignment.contracts.values import Record

__all__ = ["ChosenRecipe", "choose_recipe"]

_PREFERRED = (
    "diffusion_dpo_shapes",
    "diffusion_dpo_lora_sd21_pickapic",
    "diffusion_dpo_sdxl_pickapic",
    "diffusion_dpo_lora_sd35_pickapic",
    "diffusion_dpo_lora_flux_pickapic",
)
"""One recipe of Diffusion-DPO for each family, the shapes world's first: only its resolution makes it the choice."""
_MOST_PASSES = 20
"""Largest number of times that a training sees each pair."""
_FEWEST_STEPS = 10
_LARGE_BATCH = 256
_ADAPTERS = ('tuning={kind = "lora", rank = 8, alpha = 8}', "optimiser={learning_rate = 1e-5}")
"""Adapters in place of all weights: the learning rate of a full fine-tune goes with a batch of thousands. Rank and rate
are those of diffusers' script (examples/research_projects/diffusion_dpo) for a few pairs a step."""


class ChosenRecipe(Record):
    """A recipe of the package with overrides."""

    recipe: str
    overrides: tuple[str, ...] = ()
    fitted: bool = False
    """True if the recipe was changed because there are few pairs."""


def choose_recipe(backbone: Backbone, num_pairs: int) -> ChosenRecipe:
    """Return the recipe of the backbone's resolution, else of its family, fitted to `num_pairs` training pairs.

    A batch holds at most half of the pairs, and training sees each at most 20 times. A recipe that trains all weights
    with thousands of pairs a step trains adapters instead. The result is a start, not a tuned recipe.
    """
    family = [own for own in map(load_recipe, _PREFERRED) if own.backbone.name == backbone.name]
    exact = [own for own in family if own.backbone.resolution == backbone.resolution]
    recipe = exact[0] if exact else family[-1]
    fitted = _fitted(recipe, num_pairs)
    return ChosenRecipe(recipe=recipe.name, overrides=(*_of_backbone(recipe, backbone), *fitted), fitted=bool(fitted))


def _of_backbone(recipe: Recipe, backbone: Backbone) -> tuple[str, ...]:
    if recipe.backbone.resolution == backbone.resolution:
        return ()
    found = (f"backbone.resolution={backbone.resolution}",)
    try:
        buckets_of(recipe.images, backbone.resolution)
    except ValueError:
        return (*found, 'images={kind = "square"}')
    return found


def _fitted(recipe: Recipe, num_pairs: int) -> tuple[str, ...]:
    """Return the overrides for few pairs; none if the recipe's own batch and steps suit them."""
    batch, steps = recipe.global_batch, recipe.steps
    while batch > max(num_pairs // 2, 1):
        batch //= 2
    steps = min(steps, max(-(-_MOST_PASSES * num_pairs // batch), _FEWEST_STEPS))
    found = [f"global_batch={batch}"] if batch != recipe.global_batch else []
    found += [f"steps={steps}"] if steps != recipe.steps else []
    if found and recipe.global_batch > _LARGE_BATCH:
        return (*found, *_ADAPTERS)
    warmup = min(recipe.optimiser.warmup_steps, steps // 10)
    return (*found, *([f"optimiser.warmup_steps={warmup}"] if warmup != recipe.optimiser.warmup_steps else []))
