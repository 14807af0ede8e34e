"""Candidates before the gate: the rule of truth, distances among seeds, what is left out, and the tables."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.policy import GatePolicy, GuardRule

CATEGORIES = ["ring"] * 30 + ["star"] * 30


@pytest.fixture(scope="module")
def trial(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("judge_candidates")


def line(trial: ModuleType, oracle: list[float], *, distances: float = 10.0, kind: str = "good") -> Any:
    """A candidate of 60 prompts and one seed each."""
    return trial.Line(
        name=kind,
        kind=kind,
        training="dpo-7",
        scale=1.0,
        weights_digest="0" * 64,
        sampler_steps=6,
        oracle=oracle,
        seed_distances=[distances] * len(CATEGORIES),
    )


def judged(trial: ModuleType, oracle: list[float], distances: float = 10.0) -> Any:
    base = line(trial, [0.0] * 60, kind="base")
    return trial.truth(line(trial, oracle, distances=distances), base, CATEGORIES, 0.15)


def test_better_worse_and_neither(trial: ModuleType) -> None:
    assert judged(trial, [1.0] * 45 + [-1.0] * 15).label == "good"
    assert judged(trial, [1.0, -1.0] * 30).label == "null"
    worse = judged(trial, [1.0, -1.0, -1.0, -1.0] * 15)
    assert (worse.label, worse.win_rate) == ("bad", 0.25)
    assert "prefers the base" in worse.why


def test_a_lost_slice_is_bad_however_good_the_rest(trial: ModuleType) -> None:
    found = judged(trial, [1.0] * 30 + [1.0] * 8 + [-1.0] * 22)
    assert (found.label, found.bad_slices) == ("bad", ("star",))
    assert found.low > 0.5
    within = judged(trial, [1.0] * 30 + [1.0] * 12 + [-1.0] * 18)
    assert (within.label, within.bad_slices) == ("good", ())


def test_seeds_that_look_alike_are_bad_however_good_the_images(trial: ModuleType) -> None:
    found = judged(trial, [1.0] * 60, distances=4.0)
    assert (found.label, found.diversity, found.why) == ("bad", 0.4, "its seeds are alike")
    assert judged(trial, [1.0] * 60, distances=6.0).label == "good"


def test_seeds_are_averaged_and_draws_count_half(trial: ModuleType) -> None:
    ours, theirs = [3.0, -1.0, -3.0, 1.0, 1.0, -1.0], [0.0] * 6
    assert trial.won(ours, theirs, seeds=2).tolist() == [1.0, 0.0, 0.5]


def test_the_distance_among_seeds_is_over_pairs(trial: ModuleType) -> None:
    images = [np.full((2, 2, 3), value, dtype=np.uint8) for value in (0, 10, 30)]
    assert trial.seed_distance(images) == pytest.approx((10 + 30 + 20) / 3)


def test_a_guard_that_is_left_out_is_gone_from_policy_and_table(trial: ModuleType) -> None:
    policy = GatePolicy(guards={"caption": GuardRule(margin=1.0), "diversity": GuardRule(margin=0.1)})
    assert set(trial.policy_without(policy, ["diversity"]).guards) == {"caption"}
    columns = {"scorer": ["taste", "diversity", "taste"], "score": [1.0, 2.0, 3.0]}
    report = SimpleNamespace(
        spec=SimpleNamespace(
            guards=(SimpleNamespace(name="caption"), SimpleNamespace(name="diversity")),
            model_copy=lambda update: SimpleNamespace(**update),
        ),
        comparisons=(SimpleNamespace(scorer="taste"), SimpleNamespace(scorer="diversity")),
        model_copy=lambda update: SimpleNamespace(**update),
    )
    found, rest = trial.left_out(report, columns, ["diversity"])
    assert rest == {"scorer": ["taste", "taste"], "score": [1.0, 3.0]}
    assert [guard.name for guard in found.spec.guards] == ["caption"]
    assert [comparison.scorer for comparison in found.comparisons] == ["taste"]
    assert trial.left_out(report, columns, []) == (report, columns)


def test_the_tables_count_verdicts_and_name_what_kept_a_candidate(trial: ModuleType) -> None:
    good, bad = judged(trial, [1.0] * 60), judged(trial, [-1.0] * 60)
    broken = SimpleNamespace(name="guard:diversity", decisive=True, passed=False)
    fine = SimpleNamespace(name="prompts", decisive=True, passed=True)
    promote = SimpleNamespace(verdict="promote", checks=(fine,))
    hold = SimpleNamespace(verdict="hold", checks=(fine, broken))
    rows = [
        (line(trial, [1.0] * 60), good, promote),
        (line(trial, [1.0] * 60), good, hold),
        (line(trial, [-1.0] * 60, kind="flipped"), bad, hold),
    ]
    text = trial.confusion(rows).splitlines()
    assert "| good | good | 1 | 1 | 0 | 0 |" in text
    assert "| flipped | bad | 0 | 1 | 0 | 0 |" in text
    assert "| all | bad | 0 | 1 | 0 | 0 |" in text
    last = trial.details(rows).splitlines()[-1]
    assert last.startswith("| flipped | bad (the oracle prefers the base")
    assert last.endswith("| hold | guard:diversity |")
