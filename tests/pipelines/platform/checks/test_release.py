"""Checks of the gate and the judges; the champion and the runs are in the tests of the stages."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.contracts.judges import JudgeState
from pipelines.monitor.judges import judge_states
from pipelines.platform.checks import release
from pipelines.platform.checks.result import check
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[4]


@pytest.fixture
def project() -> Project:
    return load_project(ROOT / "projects/shapes.toml")


def test_a_gate_without_guards_and_too_few_prompts_are_reported(project: Project, settings: Settings) -> None:
    found = release._gate(Workspace(project, settings))
    assert found.startswith("200 prompts, 2 of 2 judges must vote")
    assert "no guard" not in found
    assert "list the generators similar to this model in gate.calibration_generators" in found
    bare = {"guards": {}, "calibration_generators": ("sd15",)}
    found = release._gate(
        Workspace(project.model_copy(update={"gate": project.gate.model_copy(update=bare)}), settings)
    )
    assert "WARNING: no guard" in found
    assert "any generator" not in found
    many = project.model_copy(update={"gate": project.gate.model_copy(update={"minimum_prompts": 5000})})
    seen = check("gate", lambda: release._gate(Workspace(many, settings)), "fix")
    assert not seen.ok
    assert "has 200 prompts" in seen.found


def state(name: str, *reasons: str, unmeasured: bool = False) -> JudgeState:
    return JudgeState(
        judge=name, kind="pal", weights_digest=None, may_vote=not reasons, reasons=reasons, unmeasured=unmeasured
    )


NEVER = "was never calibrated with these weights"


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ((state("a"), state("b")), "2 of 2 may vote"),
        (
            (state("a"), state("b", NEVER, unmeasured=True)),
            "1 of 2 may vote; b not compared with people yet, which the next evaluation does",
        ),
        ((state("a"), state("b"), state("c", "is blind")), "2 of 3 may vote; WARNING: c is blind"),
    ],
    ids=["all", "new", "enough"],
)
def test_enough_judges_may_vote(states: Any, found: str, project: Project, settings: Settings) -> None:
    assert release._judges(Workspace(project, settings), lambda _: states) == found


def test_too_few_judges_is_a_fault_with_the_reasons(project: Project, settings: Settings) -> None:
    states = (state("a"), state("b", "is not independent", NEVER))
    with pytest.raises(ValueError, match=rf"2 judges must .* 1 of 2 can be: b is not independent and {NEVER}\."):
        release._judges(Workspace(project, settings), lambda _: states)


def test_judges_that_would_be_fetched_are_left_alone(project: Project, settings: Settings) -> None:
    first, second = project.evaluation.judges
    away = (first.model_copy(update={"uri": "s3://bucket/judge"}), second)
    evaluation = project.evaluation.model_copy(update={"judges": away})
    changed = Workspace(project.model_copy(update={"evaluation": evaluation}), settings)

    def never(_: Workspace) -> list[JudgeState]:
        raise AssertionError

    assert release._judges(changed, never) == (
        "not known: taste_a would be fetched first; `plumbline judges shapes` does it"
    )


def test_doctor_and_judges_read_one_answer(project: Project, settings: Settings) -> None:
    states = judge_states(Workspace(project, settings))
    assert [own.unmeasured for own in states] == [True, True]
    found = release._judges(Workspace(project, settings), judge_states)
    assert found.startswith("0 of 2 may vote; taste_a, taste_b not compared with people yet")
