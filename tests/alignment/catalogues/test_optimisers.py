"""A recipe's optimiser: AdamW by default, as before Adafactor existed."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from alignment.catalogues.optimisers import Adafactor, AdamW, AdamW8bit, Optimiser, has_8bit_moments
from alignment.config import load_recipe
from alignment.contracts.training import Recipe

ADAPTER: TypeAdapter[Any] = TypeAdapter(Optimiser)


def test_the_default_is_adamw_and_its_kind_is_not_written() -> None:
    read = ADAPTER.validate_python({"learning_rate": 1e-3, "betas": (0.5, 0.6)})
    assert read == AdamW(learning_rate=1e-3, betas=(0.5, 0.6))
    assert ADAPTER.validate_python({"kind": "adamw", "learning_rate": 1e-3, "betas": (0.5, 0.6)}) == read
    assert "kind" not in read.model_dump()
    assert ADAPTER.validate_json(read.model_dump_json()) == read


def test_adafactor_is_written_by_name_and_read_back() -> None:
    read = ADAPTER.validate_python({"kind": "adafactor", "learning_rate": 2e-5})
    assert read == Adafactor(learning_rate=2e-5, weight_decay=1e-2, clip_threshold=1.0, decay_rate=-0.8)
    assert read.model_dump()["kind"] == "adafactor"
    assert ADAPTER.validate_json(read.model_dump_json()) == read


def test_eight_bit_adamw_is_written_by_name_and_read_back() -> None:
    read = ADAPTER.validate_python({"kind": "adamw8bit", "learning_rate": 2e-5, "betas": (0.9, 0.95)})
    assert read == AdamW8bit(learning_rate=2e-5, betas=(0.9, 0.95), weight_decay=1e-2)
    assert read.model_dump()["kind"] == "adamw8bit"
    assert ADAPTER.validate_json(read.model_dump_json()) == read


def test_small_and_uneven_weights_have_no_moments_of_one_byte() -> None:
    assert [has_8bit_moments(number) for number in (4095, 4096, 4097, 4352)] == [False, True, False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "adafactor", "learning_rate": 1e-3, "betas": (0.9, 0.999)},
        {"kind": "adam8bit", "learning_rate": 1e-3},
        {"learning_rate": 1e-3, "clip_threshold": 1.0},
        {"kind": "adafactor", "learning_rate": 1e-3, "decay_rate": 0.8},
        {"kind": "adamw8bit", "learning_rate": 1e-3, "clip_threshold": 1.0},
        {"kind": "adafactor"},
    ],
)
def test_settings_of_another_optimiser_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(wrong)


def test_recipes_without_optimiser_kind_keep_their_digests() -> None:
    """A recipe that names neither optimiser kind nor images gives the same numbers as before, so its digest is kept."""
    recipe = load_recipe("diffusion_dpo_shapes")
    assert recipe.digest == "dd835b3f32814cbb592e6c82ded701e56ca4cf7b06149a17a7f2e96165f6bffd"
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_with_adafactor_has_another_digest_and_survives_json() -> None:
    adamw = load_recipe("diffusion_dpo_shapes")
    adafactor = load_recipe("diffusion_dpo_shapes", ["optimiser.kind=adafactor"])
    assert isinstance(adafactor.optimiser, Adafactor)
    assert adafactor.digest != adamw.digest
    assert Recipe.model_validate_json(adafactor.model_dump_json()) == adafactor


def test_a_misspelt_field_is_named_with_the_nearest_known_field() -> None:
    with pytest.raises(ValueError, match=r"learning_rat.*Did you mean 'optimiser\.learning_rate'"):
        load_recipe("diffusion_dpo_shapes", ["optimiser.kind=adafactor", "optimiser.learning_rat=1"])
    with pytest.raises(ValueError, match="adafactor"):
        load_recipe("diffusion_dpo_shapes", ["optimiser.kind=lion"])
