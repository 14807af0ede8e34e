"""The fields of precision fit together, or one sentence says what to change. Earlier digests stay."""

from typing import Any

import pytest
from pydantic import ValidationError

from alignment.catalogues.objectives import DCPO, DiffusionDPO
from alignment.config import known_recipes, load_recipe
from alignment.contracts.jobs import Placement
from alignment.contracts.precision import MOST_NOISE, margin_noise, noise_warning
from alignment.contracts.training import Recipe, check_sharding

RECIPE: dict[str, Any] = {
    "name": "r",
    "backbone": {"name": "stable_diffusion", "resolution": 64},
    "objective": {"name": "diffusion_dpo"},
    "tuning": {"kind": "lora"},
    "optimiser": {"learning_rate": 1e-3},
    "global_batch": 1,
    "steps": 1,
    "seed": 0,
}
FULL = {"tuning": {"kind": "full"}}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"frozen_weights": "int8"}, "needs precision 'bf16' or 'fp16', not 'fp32'"),
        ({"frozen_weights": "bf16"}, "needs precision = 'bf16', not 'fp32'"),
        ({"frozen_weights": "bf16", "precision": "fp16"}, "needs precision = 'bf16', not 'fp16'"),
        ({"frozen_weights": "nf4", "precision": "bf16", **FULL}, "needs tuning.kind = 'lora'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Recipe.model_validate(RECIPE | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"frozen_weights": "bf16", "precision": "bf16"},
        {"frozen_weights": "fp16", "precision": "fp16", **FULL},
        {"frozen_weights": "nf4", "precision": "fp16"},
    ],
)
def test_fields_that_fit_enter_the_digest(fields: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(RECIPE | fields)
    plain = Recipe.model_validate(RECIPE | {"precision": fields["precision"]})
    assert recipe.digest != plain.digest
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_an_online_objective_cannot_scale_its_loss() -> None:
    with pytest.raises(ValueError, match="set precision = 'bf16'"):
        load_recipe("prdp_shapes", ["precision=fp16"])


def test_recipes_without_the_new_fields_keep_their_json() -> None:
    plain = Recipe.model_validate(RECIPE).model_dump(mode="json")
    assert not {"frozen_weights"} & plain.keys()


@pytest.mark.parametrize("kind", ["adafactor", "adamw8bit"])
def test_an_optimiser_that_needs_whole_weights_cannot_be_divided(kind: str) -> None:
    recipe = Recipe.model_validate(RECIPE | {"optimiser": {"kind": kind, "learning_rate": 1e-4}})
    with pytest.raises(ValueError, match=f"optimiser '{kind}' needs each weight whole. Set sharding = \"none\""):
        check_sharding(recipe, Placement(sharding="fsdp2", num_processes=2))


@pytest.mark.parametrize("storage", ["bf16", "int8", "nf4"])
def test_stored_weights_can_be_divided(storage: str) -> None:
    recipe = Recipe.model_validate(RECIPE | {"frozen_weights": storage, "precision": "bf16"})
    check_sharding(recipe, Placement(sharding="fsdp2", num_processes=2))


def test_noise_grows_with_beta_and_falls_with_the_root_of_the_latents_size() -> None:
    one = margin_noise("bf16", 5000.0, 4096)
    assert margin_noise("bf16", 500.0, 4096) == pytest.approx(one / 10)
    assert margin_noise("bf16", 5000.0, 4 * 4096) == pytest.approx(one / 2)
    assert margin_noise("fp32", 5000.0, 4096) == 0
    assert margin_noise("fp16", 5000.0, 4096) < one / 3


@pytest.mark.parametrize("name", known_recipes())
def test_the_margin_of_a_shipped_recipe_is_not_noise(name: str) -> None:
    recipe = load_recipe(name)
    if not isinstance(recipe.objective, (DCPO, DiffusionDPO)):
        return
    channels = 16 if recipe.backbone.name in {"sd3", "flux"} else 4
    values = channels * (recipe.backbone.resolution // 8) ** 2
    assert margin_noise(recipe.precision, recipe.objective.beta, values) <= MOST_NOISE
    assert noise_warning(recipe.precision, recipe.objective.beta, values) is None


def test_a_noisy_margin_is_reported_with_its_size() -> None:
    warning = noise_warning("bf16", 5000.0, 4 * 64 * 64)
    assert warning is not None
    assert "noise of about 1.2 to the margin at beta 5000 (bound: 0.2)" in warning
