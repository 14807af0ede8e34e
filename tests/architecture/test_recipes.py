"""Every recipe and project file is valid, and every objective has a recipe."""

from pathlib import Path

import pytest

from alignment.catalogues.objectives import OBJECTIVES
from alignment.config import RECIPES_DIR, known_recipes, load_recipe
from pipelines.project.file import Project, _list_projects, load_project
from pipelines.project.recipe_swap import _policy_changes, write_variant
from pipelines.project.sections import JudgeSection
from pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
SHAPES_RECIPES = [name for name in known_recipes() if name.endswith("_shapes")]


@pytest.mark.parametrize("name", known_recipes())
def test_recipe_loads_and_states_the_expected_result_and_cost(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    header = (RECIPES_DIR / f"{name}.toml").read_text().split("\n\n", 1)[0]
    assert header.startswith("#")
    assert "Expected" in header
    assert "Cost" in header


def test_every_objective_has_a_recipe() -> None:
    named = {load_recipe(name).objective.name for name in known_recipes()}
    assert named == {objective.model_fields["name"].default for objective in OBJECTIVES}


@pytest.mark.parametrize("path", _list_projects(ROOT / "projects"), ids=lambda path: path.stem)
def test_project_loads(path: Path) -> None:
    project = load_project(path)
    assert project.name == path.stem
    assert Path(project.base.uri).is_absolute()


def training_sources(project: Project) -> set[str]:
    """Return what a candidate of the project's one recipe learns from, as registration records it."""
    (recipe,) = project.recipes()
    if not recipe.objective.online:
        return {source.name for source in project.sources}
    reward = project.reward(recipe)
    return {reward.name, f"folder {reward.uri}", *reward.trained_on}


def may_judge(judge: JudgeSection, sources: set[str]) -> bool:
    return not sources & {judge.name, f"folder {judge.uri}", *judge.trained_on}


@pytest.mark.parametrize("name", SHAPES_RECIPES)
def test_the_shapes_project_has_independent_judges_for_every_recipe(name: str, tmp_path: Path) -> None:
    """The gate may refuse the result of `make demo RECIPE=...`, but never because too few judges are independent."""
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})
    project = load_project(write_variant(ROOT / "projects" / "shapes.toml", name, [], settings))
    sources = training_sources(project)
    independent = [judge.name for judge in project.evaluation.judges if may_judge(judge, sources)]
    assert len(independent) >= project.gate.required_judges, (name, independent)
    assert all(may_judge(guard, sources) for guard in project.evaluation.guards)
    stated = (ROOT / "projects" / "shapes" / f"{name}.toml").is_file()
    assert stated or not _policy_changes(load_project(ROOT / "projects" / "shapes.toml"), project)
    assert all(Path(judge.uri).is_dir() for judge in project.evaluation.judges)
