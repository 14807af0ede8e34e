"""Worlds read from files, decisions found, and tie thresholds written."""

from pathlib import Path
from typing import Any

import pytest

from alignment.statistics.seed_noise import SeedNoise
from pipelines.project.file import Project, load_project
from pipelines.release.gate.decision_log import load_decision
from pipelines.release.gate.seed_noise import noise_sentences, tie_thresholds_toml, write_tie_thresholds
from pipelines.release.gate.simulated_project import read_world, simulate, world_sentences
from pipelines.settings import Settings

SHAPES = Path(__file__).parents[4] / "projects/shapes.toml"


def test_a_policy_alone_stands_in_the_documented_world(tmp_path: Path, settings: Settings) -> None:
    for text in ("[gate]\nrequired_judges = 1\n", "required_judges = 1\n"):
        (tmp_path / "policy.toml").write_text(text)
        world = read_world(tmp_path / "policy.toml", settings=settings)
        assert (world.num_prompts, world.num_judges, len(world.slices)) == (1632, 3, 12)
        assert world.policy.required_judges == 1
    assert read_world(tmp_path / "policy.toml", settings=settings, num_prompts=50).num_prompts == 50


def test_a_project_brings_its_own_prompts_judges_and_slices(tiny_project: Project, settings: Settings) -> None:
    world = read_world(tiny_project.path, settings=settings)
    assert (world.num_prompts, world.num_judges, world.slices, world.seeds) == (1, 1, {"any": 1.0}, (0,))


def test_a_projects_guards_are_those_that_it_measures_and_margins_are_assumed_until_something_was(
    settings: Settings,
) -> None:
    world = read_world(SHAPES, settings=settings)
    statistics = ("brightness", "checkerboard", "contrast", "high_frequency", "saturation")
    assert sorted(world.measured) == sorted(("caption_match", "diversity", *statistics))
    assert (world.guard_margin_scales, world.tie_thresholds) == ({}, {})
    assert world_sentences(world, 7)[-1] == (
        "Margins assumed to be 0.15 standard deviations (--margin-spreads): brightness, caption_match, checkerboard,"
        " contrast, diversity, high_frequency, saturation."
    )


def test_margins_and_tie_thresholds_are_scaled_by_the_last_evaluation(world: Any, tmp_path: Path) -> None:
    """Differences have spread 1 there, as the margin of caption_match has."""
    path = tmp_path / f"{world.project.name}.toml"
    text = SHAPES.read_text().replace('name = "shapes"', f'name = "{world.project.name}"')
    text = text.replace("../examples", str(SHAPES.parents[1] / "examples"))
    path.write_text(text.replace("[evaluation]\n", "[evaluation]\ntie_thresholds = { taste_b = 0.25 }\n"))
    world.decide(world.register("better"), None)
    simulated = read_world(path, settings=world.settings)
    assert simulated.guard_margin_scales["caption_match"] == pytest.approx(1.0, abs=0.15)
    assert simulated.tie_thresholds == {"judge_2": pytest.approx(0.25, abs=0.04)}
    assert "measured by the last evaluation: brightness" in world_sentences(simulated, 7)[1]
    assert simulated.guard_margin_scales["saturation"] == pytest.approx(0.15 * 3, abs=0.1), "levels have spread 3"
    given = read_world(path, settings=world.settings, margin_scale=0.5)
    assert (given.guard_margin_scales, given.spread("caption_match")) == ({}, 2.0)


@pytest.mark.parametrize("prompts", [1, 0, -5])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_arguments_out_of_range_are_reported_together(
    tmp_path: Path, settings: Settings, prompts: int, scale: float
) -> None:
    message = rf"--prompts is {prompts}, .* at least 2.*--margin-spreads is {scale:g}, .* above 0 and at most 100"
    with pytest.raises(ValueError, match=message):
        read_world(_empty(tmp_path), settings=settings, num_prompts=prompts, margin_scale=scale)


def test_bad_files_are_named(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_world(tmp_path / "none.toml", settings=settings)
    (tmp_path / "policy.toml").write_text("minimum_promts = 3\n")
    with pytest.raises(ValueError, match="Did you mean 'minimum_prompts'"):
        read_world(tmp_path / "policy.toml", settings=settings)
    world = read_world(_empty(tmp_path), settings=settings)
    with pytest.raises(ValueError, match="at least 1"):
        simulate(world, simulations=0, seed=0, after=lambda name: None)
    (tmp_path / "decision.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no gate decision"):
        load_decision(tmp_path / "decision.json", settings)
    with pytest.raises(ValueError, match="cannot be read"):
        load_decision(tmp_path / "none.json", settings)


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty.toml").write_text("")
    return tmp_path / "empty.toml"


def test_a_project_without_decisions_says_what_to_run(tiny_project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match="plumbline gate"):
        load_decision(tiny_project.path, settings)


def noise(scorer: str, median: float, *, sound: bool = True) -> SeedNoise:
    return SeedNoise(
        scorer=scorer,
        num_prompts=200,
        median_absolute_difference=median,
        spread=0.5,
        mean_difference=0.0,
        mean_difference_low=-0.1 if sound else 0.01,
        mean_difference_high=0.1,
        sound=sound,
    )


def test_thresholds_are_written_once_and_again(tiny_project: Project) -> None:
    line = tie_thresholds_toml([noise("judge", 0.123456), noise("guard", 0.00042)])
    assert line == "tie_thresholds = { judge = 0.123, guard = 0.00042 }"
    write_tie_thresholds(tiny_project.path, tie_thresholds_toml([noise("judge", 0.123456)]))
    assert load_project(tiny_project.path).evaluation.tie_thresholds == {"judge": 0.123}
    write_tie_thresholds(tiny_project.path, "tie_thresholds = { judge = 0.5 }")
    assert load_project(tiny_project.path).evaluation.tie_thresholds == {"judge": 0.5}
    assert tiny_project.path.read_text().count("tie_thresholds") == 1


def test_a_file_that_would_not_load_stays_as_it_was(tiny_project: Project) -> None:
    before = tiny_project.path.read_text()
    with pytest.raises(ValueError):
        write_tie_thresholds(tiny_project.path, "tie_thresholds = { judge = 'much' }")
    assert tiny_project.path.read_text() == before
    tiny_project.path.write_text(before + "[evaluation.tie_thresholds]\njudge = 1.0\n")
    with pytest.raises(ValueError, match="by hand"):
        write_tie_thresholds(tiny_project.path, "tie_thresholds = { judge = 0.5 }")


def test_noise_that_does_not_cover_zero_is_reported() -> None:
    sound, unsound = noise_sentences([noise("a", 0.1), noise("b", 0.1, sound=False)])
    assert "covers 0" in sound
    assert "does not cover 0" in unsound
