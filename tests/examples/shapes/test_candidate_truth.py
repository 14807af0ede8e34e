"""The true label of candidates, and distances among seeds."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

CATEGORIES = ["ring"] * 30 + ["star"] * 30


@pytest.fixture(scope="module")
def trial(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("candidate_truth")


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


def test_good_bad_and_null_candidates(trial: ModuleType) -> None:
    assert judged(trial, [1.0] * 45 + [-1.0] * 15).label == "good"
    assert judged(trial, [1.0, -1.0] * 30).label == "null"
    worse = judged(trial, [1.0, -1.0, -1.0, -1.0] * 15)
    assert (worse.label, worse.win_rate) == ("bad", 0.25)
    assert "prefers the base" in worse.why


def test_a_worse_slice_is_bad_however_good_the_rest(trial: ModuleType) -> None:
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
