"""The fields of precision fit together, or one sentence says what to change. Earlier digests stay."""

from typing import Any

import pytest
from pydantic import ValidationError

from alignment.config import load_recipe
from alignment.contracts.jobs import Placement
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
        ({"float32_stream": True}, "not 'fp32'; remove it"),
        ({"float32_stream": True, "precision": "tf32"}, "not 'tf32'; remove it"),
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
        {"frozen_weights": "nf4", "precision": "fp16", "float32_stream": True},
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
    assert not {"frozen_weights", "float32_stream"} & plain.keys()


def test_stored_weights_cannot_be_divided() -> None:
    recipe = Recipe.model_validate(RECIPE | {"frozen_weights": "bf16", "precision": "bf16"})
    check_sharding(recipe, Placement())
    with pytest.raises(ValueError, match="frozen_weights = 'bf16' cannot be divided"):
        check_sharding(recipe, Placement(sharding="fsdp2"))
