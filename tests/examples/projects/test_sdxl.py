"""The production example project: it loads, and its gate matches its comments."""

from pathlib import Path

import pytest

from pipelines.project.file import Project, load_project

FILE = Path(__file__).parents[3] / "examples/projects/sdxl.toml"


@pytest.fixture(scope="module")
def project() -> Project:
    return load_project(FILE)


def test_the_recipe_fits_the_base_and_all_names_are_known(project: Project) -> None:
    project.check_rewards()
    assert [recipe.backbone for recipe in project.recipes()] == [project.base.backbone]


def test_judges_trained_on_the_models_pairs_are_not_required(project: Project) -> None:
    sources = set(project.snapshot.sources)
    labels = {judge.name: {*judge.scorer.trained_on, *judge.trained_on} for judge in project.evaluation.judges}
    learnt = {reward.name: set(reward.sources) for reward in project.rewards}
    strangers = [name for name, own in labels.items() if not sources & (own | learnt.get(name, set()))]
    assert strangers == ["hpsv21", "imagereward", "people"]
    assert len(strangers) >= project.gate.voting_judges == 3


def test_every_guard_has_a_rule_and_the_initial_gate_promotes_nothing(project: Project) -> None:
    ruled = {*project.gate.guards, *project.gate.detectors.drift}
    assert {guard.name for guard in project.evaluation.guards} == ruled
    assert project.gate.mode == "dry_run"
