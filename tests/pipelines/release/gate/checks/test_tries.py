"""The tries of a quarter: stricter votes, and the check that states them."""

from typing import Any

import numpy as np
import pytest

from alignment.statistics.tries import Tries
from pipelines.contracts.release import GateCheck, GateDecision
from pipelines.project.gate import GatePolicy
from pipelines.release.gate.simulated_worlds import Truth, World
from pipelines.release.gate.simulation import _simulate


def judged(gain: float, tries: Tries, **policy: Any) -> GateDecision:
    world = World(policy=GatePolicy(minimum_prompts=100, **policy), num_prompts=1632, tries=tries)
    return _simulate(world, Truth("t", (gain,)), np.random.default_rng(0))


def check(decision: GateDecision, name: str) -> GateCheck:
    return next(c for c in decision.checks if c.name == name)


def test_every_try_makes_the_votes_stricter_and_harm_as_easy_to_show() -> None:
    first, tenth = judged(0.12, Tries("2026-Q4")), judged(0.12, Tries("2026-Q4", 9))
    assert [check(d, "superiority:judge_1").bound for d in (first, tenth)] == pytest.approx([0.0125, 0.05 / 110 / 2])
    assert "3 vote against it" in judged(-0.12, Tries("2026-Q4", 9)).reasons[0]


def test_the_check_states_number_and_level() -> None:
    line = check(judged(0.12, Tries("2026-Q4", 9, 2)), "tries")
    assert line.explanation.startswith("Try 10 of 2026-Q4: 9 evaluations were decided before it, 2 of them for")
    assert (line.measured, line.required, line.decisive) == (10, "votes at 0.0014", False)


def test_the_bound_of_the_mean_is_as_strict_as_the_votes() -> None:
    bounds = [check(judged(0.12, Tries("2026-Q4", n)), "mean_gain:judge_1").measured or 0 for n in (0, 9)]
    assert bounds[1] < bounds[0]


def test_the_limit_can_be_switched_off() -> None:
    decision = judged(0.2, Tries("2026-Q4", 9), quarterly_error=0)
    assert check(decision, "superiority:judge_1").bound == pytest.approx(0.0125)
    assert "tries" not in {line.kind for line in decision.checks}
