"""The judges together: weights by agreement, and no say in the verdict."""

from typing import Any

import numpy as np
import pytest

from pipelines.contracts.release import GateCheck, GateDecision
from pipelines.project.gate import GatePolicy
from pipelines.release.gate import simulation
from pipelines.release.gate.simulated_worlds import Truth, World
from pipelines.release.gate.simulation import _simulate


def judged(*gains: float, judges: int = 3, **policy: Any) -> GateDecision:
    world = World(GatePolicy(minimum_prompts=100, **policy), num_prompts=1632, num_judges=judges)
    return _simulate(world, Truth("t", gains), np.random.default_rng(0))


def combined(decision: GateDecision) -> GateCheck:
    return next(c for c in decision.checks if c.kind == "combined")


def test_equal_judges_weigh_alike_and_do_not_decide() -> None:
    decision = judged(0.5, 0.0)
    line = combined(decision)
    assert line.explanation.startswith(
        "Weighted by their agreement with people (judge_1 33%, judge_2 33%, judge_3 33%)"
    )
    assert (line.passed, line.decisive) == (True, False)
    assert decision.verdict != "promote", "one gamed judge moves the mean, not the votes"


def test_a_judge_that_agrees_more_often_weighs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = simulation._calibration

    def calibration(judge: str, *rest: Any) -> Any:
        return plain(judge, *rest).model_copy(update={"accuracy": 0.7 if judge == "judge_1" else 0.55})

    monkeypatch.setattr(simulation, "_calibration", calibration)
    # Log odds of 0.7 and 0.55: 0.847 and 0.201.
    assert "judge_1 68%, judge_2 16%, judge_3 16%" in combined(judged(0.2)).explanation


@pytest.mark.parametrize(
    ("gain", "said", "note"),
    [(0.2, "prefer the candidate", ""), (0.0, "are undecided", "undecided"), (-0.2, "speak against it", "warning")],
)
def test_what_they_say(gain: float, said: str, note: str) -> None:
    line = combined(judged(gain))
    assert said in line.explanation
    assert line.note == note


def test_one_judge_alone_is_not_combined() -> None:
    decision = judged(0.2, judges=1, required_judges=1)
    assert "combined" not in {line.kind for line in decision.checks}
