"""The ranking: gain first, pace among trials that tie; and the reason when no trial is left."""

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.search.ranking import Limits, TrialReport, explain_nothing_fits, rank

Make = Callable[..., TrialReport]
LIMITS = Limits(memory_gib=2.0, hours=1.0)


def test_the_gain_decides_where_the_interval_is_clear(report: Make) -> None:
    trials = {0: report(0.1, items_per_second=99.0), 1: report(0.9, items_per_second=1.0)}
    scores = {0: np.array([1.0, 1.1, 0.9, 1.0]), 1: np.array([1.8, 1.9, 1.7, 1.8])}
    placings = rank(trials, scores, confidence=0.95)
    assert [(p.trial, p.rank, p.ties_with_leader) for p in placings] == [(1, 1, True), (0, 2, False)]
    # the difference is 0.8 on every prompt, so its interval is a point
    assert placings[1].behind_leader_low == pytest.approx(0.8)
    assert placings[1].behind_leader_high == pytest.approx(0.8)


def test_pace_decides_within_the_noise(report: Make) -> None:
    trials = {0: report(0.10, items_per_second=5.0), 1: report(0.09, items_per_second=9.0), 2: report(-3.0)}
    scores = {0: np.array([1.0, 2.0, 3.0]), 1: np.array([1.3, 1.7, 2.97]), 2: np.array([-2.1, -1.0, 0.0])}
    assert [p.trial for p in rank(trials, scores, confidence=0.95)] == [1, 0, 2]


def test_a_slow_trial_far_behind_does_not_pass_the_leader_by_its_pace(report: Make) -> None:
    trials = {0: report(1.0, items_per_second=1.0), 1: report(0.0, items_per_second=1000.0)}
    scores = {0: np.array([2.0, 3.0, 4.1]), 1: np.array([1.0, 2.1, 3.0])}
    assert [p.trial for p in rank(trials, scores, confidence=0.95)] == [0, 1]


def test_the_pairing_by_prompt_counts_not_the_spread_of_prompts(report: Make) -> None:
    """Prompts differ by far more than the trials; unpaired, the two would tie."""
    prompts = np.linspace(-10, 10, 20)
    trials = {0: report(0.5, items_per_second=1.0), 1: report(0.4, items_per_second=2.0)}
    jitter = np.tile([0.01, -0.01], 10)
    placings = rank(trials, {0: prompts + 0.1 + jitter, 1: prompts}, confidence=0.95)
    assert [p.trial for p in placings] == [0, 1]


def test_no_trial_to_rank() -> None:
    assert rank({}, {}, confidence=0.95) == []


def test_the_binding_limits_are_named_with_the_least_that_would_fit(report: Make) -> None:
    trials = [
        report(outcome="over_memory", peak_memory_gib=3.0),
        report(outcome="over_memory", peak_memory_gib=None, memory_floor_gib=2.5),
        report(outcome="over_time", final_run_hours=4.0),
        report(outcome="diverged", reason="diverged: job x: loss nan.\nlog"),
    ]
    text = explain_nothing_fits(trials, LIMITS)
    assert text.startswith("None of 4 trials fits: 2 need more than 2 GiB (the least: 2.50)")
    assert "1 would not finish within 1 hours (the shortest run: 4.00)" in text
    assert "1 diverged (diverged: job x: loss nan)" in text


def test_no_trial_at_all() -> None:
    assert explain_nothing_fits([], LIMITS) == "No trial finished within 1 hours. Raise --hours."
