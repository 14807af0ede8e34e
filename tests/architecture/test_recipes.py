"""Every recipe and project loads through its class; every objective has a recipe."""

from pathlib import Path

import pytest

from alignment.catalogues.objectives import OBJECTIVES
from alignment.config import RECIPES_DIR, known_recipes, load_recipe
from pipelines.project.file import Project, list_projects, load_project
from pipelines.project.recipe_swap import policy_changes, write_variant
from pipelines.project.sections import JudgeSection
from pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
SHAPES_RECIPES = [name for name in known_recipes() if name.endswith("_shapes")]


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


def lessons_of_its_training(project: Project) -> set[str]:
    """What a candidate of a project's one recipe has learnt from, as registration would put it on record."""
    (recipe,) = project.recipes()
    if not recipe.objective.online:
        return {source.name for source in project.sources}
    reward = project.reward(recipe)
    return {reward.name, f"folder {reward.uri}", *reward.trained_on}


def may_judge(judge: JudgeSection, lessons: set[str]) -> bool:
    return not lessons & {judge.name, f"folder {judge.uri}", *judge.trained_on}


@pytest.mark.parametrize("name", SHAPES_RECIPES)
def test_the_shapes_project_has_judges_for_every_recipe_it_may_name(name: str, tmp_path: Path) -> None:
    """`make demo RECIPE=...` may end with a no, but never for want of judges that the recipe has not learnt from."""
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})
    project = load_project(write_variant(ROOT / "projects" / "shapes.toml", name, [], settings))
    lessons = lessons_of_its_training(project)
    independent = [judge.name for judge in project.evaluation.judges if may_judge(judge, lessons)]
    assert len(independent) >= project.gate.required_judges, (name, independent)
    assert all(may_judge(guard, lessons) for guard in project.evaluation.guards)
    stated = (ROOT / "projects" / "shapes" / f"{name}.toml").is_file()
    assert stated or not policy_changes(load_project(ROOT / "projects" / "shapes.toml"), project)
    assert all(Path(judge.uri).is_dir() for judge in project.evaluation.judges)
