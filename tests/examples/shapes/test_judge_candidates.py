"""Candidates before the gate: the tables."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def trial(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("judge_candidates")


def test_the_tables_count_verdicts_and_name_the_rejecting_checks(trial: ModuleType) -> None:
    good = trial.Truth("good", 0.9, 0.8, 0.95, 1.0, (), "")
    bad = trial.Truth("bad", 0.1, 0.05, 0.2, 1.0, (), "the oracle prefers the base")
    broken = SimpleNamespace(name="guard:diversity", decisive=True, passed=False)
    fine = SimpleNamespace(name="prompts", decisive=True, passed=True)
    promote = SimpleNamespace(verdict="promote", checks=(fine,))
    hold = SimpleNamespace(verdict="hold", checks=(fine, broken))
    rows = [
        (SimpleNamespace(name="good", kind="good"), good, promote),
        (SimpleNamespace(name="good", kind="good"), good, hold),
        (SimpleNamespace(name="flipped", kind="flipped"), bad, hold),
    ]
    text = trial.confusion(rows).splitlines()
    assert "| good | good | 1 | 1 | 0 | 0 |" in text
    assert "| flipped | bad | 0 | 1 | 0 | 0 |" in text
    assert "| all | bad | 0 | 1 | 0 | 0 |" in text
    last = trial.details(rows).splitlines()[-1]
    assert last.startswith("| flipped | bad (the oracle prefers the base")
    assert last.endswith("| hold | guard:diversity |")
