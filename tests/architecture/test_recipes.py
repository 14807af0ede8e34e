"""Every recipe and project loads through its class; every objective has a recipe."""

from pathlib import Path

import pytest

from alignment.config import RECIPES_DIR, known_recipes, load_recipe
from alignment.objectives.catalogue import OBJECTIVES
from pipelines.project import list_projects, load_project

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", known_recipes())
def test_recipe_loads_and_says_what_to_expect(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    header = (RECIPES_DIR / f"{name}.toml").read_text().split("\n\n", 1)[0]
    assert header.startswith("#")
    assert "Expected" in header
    assert "Cost" in header


def test_every_objective_has_a_recipe() -> None:
    named = {load_recipe(name).objective.name for name in known_recipes()}
    assert named == {objective.model_fields["name"].default for objective in OBJECTIVES}


@pytest.mark.parametrize("path", list_projects(ROOT / "projects"), ids=lambda path: path.stem)
def test_project_loads(path: Path) -> None:
    project = load_project(path)
    assert project.name == path.stem
    assert Path(project.base.uri).is_absolute()
