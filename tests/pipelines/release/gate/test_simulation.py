"""Simulated evaluations have the stated truth, and the real gate judges them by it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.project.gate import GatePolicy, GuardRule, PowerRule
from pipelines.release.gate import simulation
from pipelines.release.gate.simulated_worlds import (
    SLICE_LOSSES,
    Truth,
    World,
    among_people,
    rare_losses,
    standard_truths,
)
from pipelines.release.gate.simulation import (
    TRAINED_ON,
    _draw_differences,
    _simulate,
    curve_table,
    false_promotions_per_quarter,
    fault_lines,
    operating_curve,
)


def world_of(num_prompts: int = 1000, **policy: Any) -> World:
    rules = {"match": GuardRule(margin=2.0), "unsafe": GuardRule(margin=0.1, better="lower")}
    return World(
        policy=GatePolicy(minimum_prompts=100, guards=rules, **policy),
        num_prompts=num_prompts,
        slices={"people": 0.2, "things": 0.8},
    )


def test_drawn_differences_have_the_stated_gains_spread_and_correlation() -> None:
    truth = Truth("t", (0.5, 0.1), trained_on_gain=1.0, guard_loss=2.0, slice_gain=-0.8)
    drawn = _draw_differences(world_of(20_000), truth, np.random.default_rng(0))
    things = slice(4_000, None)
    means = {name: float(values[things].mean()) for name, values in drawn.items()}
    assert means == pytest.approx(
        {"judge_1": 0.5, "judge_2": 0.1, "judge_3": 0.1, TRAINED_ON: 1.0, "match": -4.0, "unsafe": 0.0}, abs=0.3
    )
    assert [drawn[f"judge_{i}"][:4_000].mean() for i in (1, 2, 3)] == pytest.approx([-0.8] * 3, abs=0.06)
    assert drawn["judge_2"][things].std() == pytest.approx(1.0, abs=0.03)
    assert drawn["match"].std() == pytest.approx(2.0 / 0.15, rel=0.03)
    correlation = np.corrcoef(drawn["judge_2"][things], drawn["judge_3"][things])[0, 1]
    assert correlation == pytest.approx(0.5, abs=0.03)


def test_rare_losses_fall_on_the_same_prompts_under_every_judge_and_make_the_mean_a_loss() -> None:
    drawn = _draw_differences(world_of(20_000), rare_losses(0.05, 10.0, 0.25), np.random.default_rng(0))
    failed = drawn["judge_1"] < -5
    assert failed.mean() == pytest.approx(0.05, abs=0.005)
    assert [drawn[f"judge_{i}"][failed].mean() for i in (1, 2, 3)] == pytest.approx([-10.0] * 3, abs=0.2)
    assert [drawn[f"judge_{i}"].mean() for i in (1, 2, 3)] == pytest.approx([-0.2625] * 3, abs=0.05)


@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        (Truth("clear gain", (0.4,)), "promote"),
        (Truth("clear loss", (-0.4,)), "hold"),
        (Truth("no effect", (0.0,)), "inconclusive"),
        (Truth("broken guard", (0.4,), guard_loss=3.0), "hold"),
        (Truth("bad slice", (0.4,), slice_gain=-1.0), "hold"),
        (Truth("trained-on judge alone", (0.1,), trained_on_gain=1.5), "hold"),
    ],
)
def test_the_gate_judges_simulated_candidates_by_their_truth(truth: Truth, verdict: str) -> None:
    found = _simulate(world_of(), truth, np.random.default_rng(3)).verdict
    assert found == verdict or (truth.name == "no effect" and found == "hold")


@pytest.mark.parametrize(
    "rule",
    [
        GuardRule(relative_margin=0.05),
        GuardRule(threshold=0.5, margin=0.01, floor=0.99),
        GuardRule(threshold=0.2, better="lower"),
        GuardRule(ceiling=3.0),
        GuardRule(floor=1.0, margin=0.1),
    ],
)
def test_a_champion_within_every_kind_of_limit_does_not_stop_a_good_candidate(rule: GuardRule) -> None:
    world = World(policy=GatePolicy(guards={"g": rule}), num_prompts=1632)
    assert _simulate(world, Truth("good", (0.4,)), np.random.default_rng(0)).verdict == "promote"


def test_an_unmeasured_guard_makes_every_row_invalid_and_is_named() -> None:
    world = replace(world_of(), guards=("match", "extra"))
    outcomes = operating_curve(world, [Truth("gain", (0.4,))], simulations=3)
    assert outcomes[0].verdicts == {"invalid": 3}
    assert set(fault_lines(outcomes)) == {
        "invalid in 3 of 3: Guard unsafe is in the policy but was not measured. Add it to evaluation.guards.",
        "invalid in 3 of 3: Guard extra was measured but the policy has no rule for it. Add gate.guards.extra.",
    }
    assert fault_lines(operating_curve(world_of(), [Truth("gain", (0.4,))], simulations=2)) == []


def test_a_guards_own_spread_decides_how_often_it_stops_a_good_candidate() -> None:
    """At 200 prompts a margin of 0.1 standard deviations holds with a chance of 28 %, one of 1 always."""
    policy = GatePolicy(minimum_prompts=100, guards={"match": GuardRule(margin=2.0)}, power=PowerRule(required=0.0))
    promoted = {}
    for ratio in (0.1, 1.0):
        world = World(policy=policy, num_prompts=200, guard_margin_scales={"match": ratio})
        assert world.spread("match") == pytest.approx(2.0 / ratio)
        (outcome,) = operating_curve(world, [Truth("gain", (0.6,))], simulations=20)
        promoted[ratio] = outcome.promoted
    assert promoted[1.0] == 1.0
    assert promoted[0.1] < 0.6


def test_ties_count_in_simulated_comparisons() -> None:
    """A threshold of half a standard deviation makes ties of 38 % of the prompts, and a win rate nearer to one half."""
    rates = {}
    for threshold in (0.0, 0.5):
        world = World(policy=GatePolicy(), num_prompts=4000, tie_thresholds={"judge_1": threshold})
        decision = _simulate(world, Truth("gain", (0.3,)), np.random.default_rng(0))
        rates[threshold] = [c.measured for c in decision.checks if c.name in ("win_rate:judge_1", "win_rate:judge_2")]
    assert rates[0.0][0] == pytest.approx(0.618, abs=0.03)
    assert rates[0.5][0] == pytest.approx(0.5 * (0.421 - 0.212) + 0.5, abs=0.03)
    assert rates[0.5][1] == rates[0.0][1]


def test_no_gain_on_too_few_prompts_for_the_stated_power_is_inconclusive() -> None:
    decision = _simulate(world_of(300), Truth("small gain", (0.1,)), np.random.default_rng(0))
    assert decision.verdict == "inconclusive"
    (power,) = [check for check in decision.checks if check.name == "power"]
    assert not power.passed
    assert "Use 581 prompts." in power.explanation


def test_the_curve_is_reproducible_and_its_table_shows_it() -> None:
    world = world_of(700)
    outcomes = operating_curve(world, [Truth("gain", (0.3,)), Truth("loss", (-0.3,))], simulations=4)
    assert outcomes == operating_curve(world, [Truth("gain", (0.3,)), Truth("loss", (-0.3,))], simulations=4)
    assert [outcome.promoted for outcome in outcomes] == [1.0, 0.0]
    assert outcomes[0].promoted_low == pytest.approx(0.510, abs=0.001)
    assert "| loss | 0.0 % | 0.0 to 49.0 | hold 4 |" in curve_table(outcomes)


def test_standard_candidates_ask_about_guards_and_slices_only_where_there_are_any() -> None:
    bare = World(policy=GatePolicy(), num_prompts=1000)
    extra = {truth.name for truth in standard_truths(world_of())} - {truth.name for truth in standard_truths(bare)}
    assert len(extra) == 1 + len(SLICE_LOSSES)
    rare = [truth for truth in standard_truths(bare) if truth.rare_share]
    assert all(t.rare_share * t.rare_gain + (1 - t.rare_share) * t.gain(0) < -0.05 for t in rare)


def test_near_duplicate_prompts_do_not_promote_a_candidate_without_a_gain() -> None:
    world = replace(world_of(1000, power=PowerRule(required=0)), group_sizes=(10,) * 100)
    drawn = _draw_differences(world, Truth("none"), np.random.default_rng(0))["judge_1"]
    assert np.array_equal(drawn[:10], np.full(10, drawn[0]))
    outcome = operating_curve(world, [Truth("no effect")], simulations=150)[0]
    # 2.5 % are allowed; counted as 1,000 independent prompts, 12 of these 150 candidates are promoted.
    assert outcome.promoted < 0.05


def test_fifty_equal_candidates_of_a_quarter_are_rarely_promoted() -> None:
    limited, free = (
        false_promotions_per_quarter(
            World(GatePolicy(minimum_prompts=100, required_judges=1, quarterly_error=budget), num_prompts=300),
            candidates=50,
            quarters=12,
            likeness=0.5,
        )[0]
        for budget in (0.05, 0)
    )
    assert limited < 0.1 < free


def test_a_quarters_candidates_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    decided = simulation._decide
    monkeypatch.setattr(simulation, "_decide", lambda w, drawn, rng: seen.append(drawn) or decided(w, drawn, rng))
    false_promotions_per_quarter(world_of(2000), candidates=2, quarters=1, likeness=0.95)
    first, second = (drawn["judge_1"] for drawn in seen)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.95, abs=0.01)
    assert first.std() == pytest.approx(1, abs=0.06)


def test_people_are_seen_through_the_judges_errors() -> None:
    truth = among_people(0.6, 0.65)
    drawn = _draw_differences(world_of(50_000), truth, np.random.default_rng(0))["judge_2"][10_000:]
    assert (drawn > 0).mean() == pytest.approx(0.6 * 0.65 + 0.4 * 0.35, abs=0.01)


def test_a_measured_agreement_has_the_error_of_its_sample() -> None:
    world = replace(world_of(400), accuracy=0.62, calibration_pairs=300)
    found = [simulation._calibration("judge_1", world, np.random.default_rng(seed)) for seed in range(50)]
    assert np.mean([c.accuracy for c in found]) == pytest.approx(0.62, abs=0.015)
    assert all(c.accuracy_low < c.accuracy < c.accuracy_high for c in found)
    assert {c.num_pairs for c in found} == {300}


def test_heavy_tails_have_the_spread_of_the_normal_ones() -> None:
    world = replace(world_of(200_000), heavy_tails=True)
    drawn = _draw_differences(world, Truth("none"), np.random.default_rng(0))["judge_1"]
    assert drawn.std() == pytest.approx(1, abs=0.15)
    assert np.abs(drawn).max() > 8
