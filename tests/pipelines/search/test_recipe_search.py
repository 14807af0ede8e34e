"""The complete search on an engine with invented results: table, winner, resumption, limits."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.config import RECIPES_DIR, load_recipe
from pipelines.project.file import load_project
from pipelines.search.ranking import Limits
from pipelines.search.recipe_search import _NothingFitsError, _only_one, _space_of, search
from pipelines.workspace import Workspace

LIMITS = Limits(memory_gib=4.0, hours=1.0)


def run(world: Any, limits: Limits = LIMITS, out: Path | None = None, **section: Any) -> dict[str, Any]:
    return search(
        Workspace(world.with_section(**{"trials": 4, **section}), world.settings),
        snapshot=world.snapshot,
        limits=limits,
        out=out,
        run_job=world.engine,
    )


def test_the_best_trial_becomes_a_recipe_that_a_project_can_name(world: Any) -> None:
    answer = run(world, trials=6, factors={"optimiser.learning_rate": (0.2, 5.0)})
    assert json.loads(json.dumps(answer)) == answer
    trials = answer["trials"]
    assert len(trials) == 6
    gains = {trial["trial"]: trial["against_base"]["mean_difference"] for trial in trials}
    best = answer["winner"]["trial"]
    assert gains[best] == max(gains.values()) > gains[0] == pytest.approx(-1.0)
    path = Path(answer["winner"]["recipe"])
    assert path == world.folder / "projects" / "recipes" / "shapes_search.toml"
    recipe = load_recipe(str(path))
    assert recipe.optimiser.learning_rate == pytest.approx(3e-5, abs=(1 - gains[best]) * 1e-5 + 1e-8)
    assert recipe.steps == load_recipe("diffusion_dpo_shapes").steps
    assert recipe.selected_by[0] == "taste_a"
    assert "may not vote on what it trains" in answer["notes"][0]
    project = world.project.path
    project.write_text(project.read_text().replace('"diffusion_dpo_shapes"', '"recipes/shapes_search.toml"'))
    assert load_project(project).recipes() == [recipe]


def test_a_search_again_runs_no_job(world: Any) -> None:
    first = run(world)
    ran = len(world.engine.ran)
    assert run(world) == first
    assert len(world.engine.ran) == ran


def test_an_interrupted_search_continues(world: Any) -> None:
    world.engine.failure = {"evaluate": RuntimeError("the engine is away")}
    with pytest.raises(RuntimeError, match="engine is away"):
        run(world)
    world.engine.failure = {}
    answer = run(world)
    assert len(answer["trials"]) == 4
    trained = [request.spec_digest for request in world.engine.ran if request.kind == "train"]
    assert len(trained) == len(set(trained))


def test_nothing_within_the_memory(world: Any) -> None:
    world.engine.peak = 9.0
    with pytest.raises(_NothingFitsError, match=r"None of 4 trials fits: 4 need more than 4 GiB \(the least: 9.00\)"):
        run(world)
    assert not (world.folder / "projects" / "recipes").exists()


def test_nothing_within_the_hours(world: Any) -> None:
    world.engine.pace = 0.1
    with pytest.raises(_NothingFitsError, match=r"4 would not finish within 1 hours"):
        run(world)


@pytest.mark.parametrize(("memory", "hours"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_invalid_limits_are_refused(world: Any, memory: float, hours: float) -> None:
    with pytest.raises(ValueError, match="Give a number above 0"):
        run(world, Limits(memory_gib=memory, hours=hours))
    assert world.engine.ran == []


def test_a_reward_cannot_rank_a_recipe_that_maximises_it(world: Any) -> None:
    with pytest.raises(
        ValueError, match="'prdp_shapes' maximises 'taste_a', so that scorer cannot be the search's judge"
    ):
        run(world, recipes=("prdp_shapes",), judge="taste_a")


def test_a_recipe_of_another_backbone_is_refused(world: Any) -> None:
    with pytest.raises(ValueError, match=r"search recipe 'mapo_sdxl_pickapic' is for SDXL"):
        run(world, recipes=("mapo_sdxl_pickapic",))


def test_two_recipes_of_one_name_are_distinguished(world: Any) -> None:
    copy = world.folder / "diffusion_dpo_shapes.toml"
    copy.write_text((RECIPES_DIR / "diffusion_dpo_shapes.toml").read_text())
    space = _space_of(world.with_section(recipes=("diffusion_dpo_shapes", str(copy))))
    assert list(space.starts) == ["diffusion_dpo_shapes_1", "diffusion_dpo_shapes_2"]


def test_one_search_at_a_time(tmp_path: Path) -> None:
    with _only_one(tmp_path), pytest.raises(RuntimeError, match="already running"), _only_one(tmp_path):
        pass
    with _only_one(tmp_path):
        pass
