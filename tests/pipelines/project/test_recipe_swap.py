"""A project with another recipe: a file of its own, the same for the same wish, and the user's file untouched."""

import pytest

from pipelines.project.file import Project, load_project
from pipelines.project.recipe_swap import write_variant
from pipelines.settings import Settings


def test_the_variant_trains_the_recipe_and_is_otherwise_the_project(tiny_project: Project, settings: Settings) -> None:
    before = tiny_project.path.read_text()
    path = write_variant(tiny_project.path, "mapo_shapes", ["seed=3"], settings)
    variant = load_project(path)
    assert [(recipe.name, recipe.seed) for recipe in variant.recipes()] == [("mapo_shapes", 3)]
    assert variant.model_copy(update={"train": tiny_project.train, "path": tiny_project.path}) == tiny_project
    assert path.is_relative_to(settings.state_dir)
    assert tiny_project.path.read_text() == before


def test_each_wish_has_a_file_of_its_own(tiny_project: Project, settings: Settings) -> None:
    """A run with one recipe reads its file for as long as it lasts, whatever is asked for beside it."""
    first = write_variant(tiny_project.path, "mapo_shapes", [], settings)
    assert write_variant(tiny_project.path, "mapo_shapes", [], settings) == first
    assert write_variant(tiny_project.path, "mapo_shapes", ["seed=3"], settings) != first
    assert write_variant(tiny_project.path, "sft_shapes", [], settings) != first
    assert first.name == "tiny.toml", "the project keeps its name, and with it its models and its champion"


def test_what_else_changes_with_a_recipe_lies_beside_the_project(tiny_project: Project, settings: Settings) -> None:
    beside = tiny_project.path.parent / "tiny" / "mapo_shapes.toml"
    beside.parent.mkdir()
    beside.write_text(
        '[evaluation]\nseeds = [5, 6]\n[[sources]]\nname="other"\nkind="pick_a_pic"\nuri="x"\nlicence="y"\n'
    )
    variant = load_project(write_variant(tiny_project.path, "mapo_shapes", [], settings))
    assert variant.evaluation.seeds == (5, 6)
    assert variant.evaluation.judges == tiny_project.evaluation.judges, "tables are joined"
    assert [(s.name, s.uri) for s in variant.sources] == [("other", str(tiny_project.path.parent / "x"))]
    assert load_project(write_variant(tiny_project.path, "sft_shapes", [], settings)).evaluation.seeds == (0,)


def test_a_policy_that_changes_with_the_recipe_is_said_aloud(
    tiny_project: Project, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    beside = tiny_project.path.parent / "tiny" / "mapo_shapes.toml"
    beside.parent.mkdir()
    beside.write_text("[gate]\nminimum_prompts = 2\n")
    write_variant(tiny_project.path, "sft_shapes", [], settings)
    assert not caplog.records
    write_variant(tiny_project.path, "mapo_shapes", [], settings)
    (said,) = caplog.messages
    assert said == f"The gate is not the project's: gate.minimum_prompts is 2 instead of 1, by {beside}"


def test_a_wish_that_cannot_be_leaves_no_file(tiny_project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"Unknown recipe 'mapo_shape'. Did you mean 'mapo_shapes'"):
        write_variant(tiny_project.path, "mapo_shape", [], settings)
    with pytest.raises(ValueError, match=r"mapo_sdxl_pickapic.* is for "):
        write_variant(tiny_project.path, "mapo_sdxl_pickapic", [], settings)
    assert not list(settings.state_dir.rglob("*.toml"))
