"""A variant of a project: a separate file, equal for equal requests, and an unchanged user's file."""

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


def test_each_recipe_with_overrides_has_a_separate_file(tiny_project: Project, settings: Settings) -> None:
    """A run reads its file until it ends, even if a variant with another recipe is written meanwhile."""
    first = write_variant(tiny_project.path, "mapo_shapes", [], settings)
    assert write_variant(tiny_project.path, "mapo_shapes", [], settings) == first
    assert write_variant(tiny_project.path, "mapo_shapes", ["seed=3"], settings) != first
    assert write_variant(tiny_project.path, "sft_shapes", [], settings) != first
    assert first.name == "tiny.toml", "the project keeps its name, and so its models and champion"


def test_other_changes_for_a_recipe_are_read_from_beside_the_project(tiny_project: Project, settings: Settings) -> None:
    beside = tiny_project.path.parent / "tiny" / "mapo_shapes.toml"
    beside.parent.mkdir()
    beside.write_text(
        '[evaluation]\nseeds = [5, 6]\n[[sources]]\nname="other"\nkind="pick_a_pic"\nuri="x"\nlicence="y"\n'
    )
    variant = load_project(write_variant(tiny_project.path, "mapo_shapes", [], settings))
    assert variant.evaluation.seeds == (5, 6)
    assert variant.evaluation.judges == tiny_project.evaluation.judges, "tables are merged"
    assert [(s.name, s.uri) for s in variant.sources] == [("other", str(tiny_project.path.parent / "x"))]
    assert load_project(write_variant(tiny_project.path, "sft_shapes", [], settings)).evaluation.seeds == (0,)


def test_a_gate_policy_that_changes_with_the_recipe_is_logged(
    tiny_project: Project, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    beside = tiny_project.path.parent / "tiny" / "mapo_shapes.toml"
    beside.parent.mkdir()
    beside.write_text("[gate]\nminimum_prompts = 2\n")
    write_variant(tiny_project.path, "sft_shapes", [], settings)
    assert not caplog.records
    write_variant(tiny_project.path, "mapo_shapes", [], settings)
    (message,) = caplog.messages
    assert message == f"The gate differs from the project's: gate.minimum_prompts is 2 instead of 1, set by {beside}"


def test_an_invalid_variant_leaves_no_file(tiny_project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"Unknown recipe 'mapo_shape'. Did you mean 'mapo_shapes'"):
        write_variant(tiny_project.path, "mapo_shape", [], settings)
    with pytest.raises(ValueError, match=r"mapo_sdxl_pickapic.* is for "):
        write_variant(tiny_project.path, "mapo_sdxl_pickapic", [], settings)
    assert not list(settings.state_dir.rglob("*.toml"))
