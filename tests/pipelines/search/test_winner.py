"""The recipe file: reads back the same, with its lineage, and never overwrites a person's file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.catalogues.rewards import ClipPreference
from alignment.config import known_recipes, load_recipe, recipe_toml
from alignment.contracts.judges import Judge
from alignment.contracts.training import Recipe, TrainSpec
from alignment.contracts.values import canonical_json
from pipelines.search import winner
from pipelines.search.ranking import TrialReport

JUDGE = Judge(name="taste", scorer=ClipPreference(), weights_digest="a" * 64, trained_on=("panel",))


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_reads_back_from_what_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text(recipe_toml(load_recipe(name), "# A header."))
    assert load_recipe(str(path)) == load_recipe(name)


def test_the_judge_that_chose_is_in_the_lineage_beside_earlier_ones() -> None:
    recipe = load_recipe("diffusion_dpo_shapes").model_copy(update={"selected_by": ("earlier", "panel")})
    assert winner.chosen(recipe, JUDGE).selected_by == ("earlier", "panel", "taste", f"scorer {'a' * 64}")


def test_a_recipe_that_no_judge_chose_keeps_its_digest() -> None:
    """The field was added later; results found by digest must still be found."""
    recipe = load_recipe("diffusion_dpo_shapes")
    data = recipe.model_dump(mode="json")
    assert "selected_by" not in data
    spec = TrainSpec(recipe=recipe, base_digest="b" * 64, cache_digest="c" * 64)
    assert "selected_by" not in canonical_json(spec.model_dump(mode="json"))
    assert recipe.digest == hashlib.sha256(canonical_json(data).encode()).hexdigest()
    chosen = winner.chosen(recipe, JUDGE)
    assert chosen.digest != recipe.digest
    assert Recipe.model_validate_json(chosen.model_dump_json()) == chosen


def test_the_file_states_how_it_was_found(tmp_path: Path, world: Any, report: Callable[..., TrialReport]) -> None:
    recipe = winner.chosen(load_recipe("diffusion_dpo_shapes"), JUDGE)
    trial = report(0.1, changes=("objective.beta=500.0",))
    header = winner.header(world.project, recipe, trial, number=3, trials=6, judge="taste")
    path = tmp_path / "recipes" / "found.toml"
    winner.write_winner(path, recipe, header)
    text = path.read_text()
    for part in ("trial 3 of 6", "objective.beta=500.0", "win rate 0.750 (0.300 to 0.950)", "0.500 hours predicted"):
        assert part in text
    assert "within the noise" not in text
    assert all(line.startswith("#") for line in header.splitlines())
    assert load_recipe(str(path)) == recipe.model_copy(update={"name": "found"})


def test_a_gain_within_the_noise_is_labelled(world: Any, report: Callable[..., TrialReport]) -> None:
    recipe = load_recipe("diffusion_dpo_shapes")
    header = winner.header(world.project, recipe, report(0.01), number=0, trials=1, judge="taste")
    assert "the search has not shown it to be better" in header


def test_an_earlier_winner_is_replaced_and_a_persons_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{winner.MARK} before\n")
    winner.check_path(path)
    path.write_text("# My recipe\n")
    with pytest.raises(ValueError, match=r"mine.toml exists and was not written by a search"):
        winner.check_path(path)
    with pytest.raises(ValueError, match=r"a recipe file must end in \.toml"):
        winner.check_path(tmp_path / "mine.json")


def test_the_default_path_is_not_among_the_projects(world: Any) -> None:
    path = winner.default_path(world.project)
    assert path == world.project.path.parent / "recipes" / "shapes_search.toml"
    assert path.parent != world.project.path.parent
