"""What a vote rests on: most prompts gain, by enough, and the gains outweigh the losses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alignment.statistics.skewness import skewed_mean_interval
from pipelines.contracts.release import GateCheck, GateDecision
from pipelines.project.gate import GatePolicy, PowerRule
from pipelines.release.gate import simulation
from pipelines.release.gate.simulated_worlds import RARE_LOSSES, Truth, World, rare_losses
from pipelines.release.gate.simulation import _simulate


def world_of(prompts: int = 1632, **policy: Any) -> World:
    return World(policy=GatePolicy(minimum_prompts=100, **policy), num_prompts=prompts)


def judged(truth: Truth, *, seed: int = 0, world: World | None = None) -> GateDecision:
    return _simulate(world or world_of(), truth, np.random.default_rng(seed))


def check(decision: GateDecision, name: str) -> GateCheck:
    return next(c for c in decision.checks if c.name == name)


def explanation(decision: GateDecision, name: str) -> str:
    return check(decision, name).explanation


# --- what a judge says ---------------------------------------------------------------------------------------------


def test_equal_models_show_no_gain_worth_having_and_are_not_spoken_against(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {f"judge_{i}": np.zeros(1632) for i in (1, 2, 3)}
    monkeypatch.setattr(simulation, "_draw_differences", lambda *a: same)
    decision = judged(Truth("t"))
    assert decision.verdict == "hold"
    assert decision.reasons[0].endswith("2 are required. 3 show no gain worth having.")
    text = explanation(decision, "win_rate:judge_1")
    assert text.startswith("judge_1 shows no gain worth having from the candidate: 0 wins, 1632 ties, 0 losses")


def test_votes_against_and_missing_gains_are_counted_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = {"judge_1": np.ones(1632), "judge_2": np.zeros(1632), "judge_3": -np.ones(1632)}
    monkeypatch.setattr(simulation, "_draw_differences", lambda *a: mixed)
    decision = judged(Truth("t"))
    assert decision.reasons[0].endswith("1 votes against it and 1 shows no gain worth having.")
    assert explanation(decision, "win_rate:judge_3").startswith("judge_3 votes against the candidate")


# --- the mean -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [{}, {"superiority": "win_rate", "power": PowerRule(effect=0.3)}])
@pytest.mark.parametrize("losses", RARE_LOSSES)
def test_a_candidate_that_wins_often_and_is_worse_on_average_is_never_promoted(
    losses: tuple[float, float, float], policy: dict[str, Any]
) -> None:
    decisions = [judged(rare_losses(*losses), seed=seed, world=world_of(**policy)) for seed in range(20)]
    assert "promote" not in {decision.verdict for decision in decisions}
    blind = sum(check(decision, "win_rate:judge_1").passed for decision in decisions)
    assert blind >= 10, "the win rate does not see it"


def test_the_line_of_the_mean_is_its_lower_bound_at_the_level_of_the_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 of 3: each vote's error is halved, so the bound is that of a 97.5 % interval."""
    drawn = simulation._draw_differences(world_of(400), Truth("t", (0.3,)), np.random.default_rng(0))
    monkeypatch.setattr(simulation, "_draw_differences", lambda *a: drawn)
    line = check(judged(Truth("t"), world=world_of(400)), "mean_gain:judge_1")
    low, high = skewed_mean_interval(drawn["judge_1"], confidence=0.975)
    assert line.measured == pytest.approx(low)
    assert (line.required, line.passed, line.decisive) == ("> 0", True, False)
    assert f"between {low:.3g} and {high:.3g}" in line.explanation


def test_a_certain_mean_loss_votes_against_and_an_uncertain_one_does_not() -> None:
    clear, doubtful = judged(rare_losses(0.05, 10.0, 0.25)), judged(rare_losses(0.03, 10.0, 0.3), seed=1)
    assert (clear.verdict, doubtful.verdict) == ("hold", "inconclusive")
    assert "its losses may be larger" in explanation(clear, "mean_gain:judge_1")
    assert "3 vote against it" in clear.reasons[0]


# --- veto and families ----------------------------------------------------------------------------------------------


HACKED_PAIR = Truth("two judges hacked by 0.5 sd, one loses 0.5", (0.5, 0.5, -0.5), good=False)


def test_two_hacked_judges_do_not_outvote_one_that_votes_against() -> None:
    decisions = [judged(HACKED_PAIR, seed=seed) for seed in range(20)]
    assert {decision.verdict for decision in decisions} == {"hold"}
    assert check(decisions[0], "preferred_by_judges").passed, "two of three prefer it"
    assert decisions[0].reasons == (explanation(decisions[0], "veto"),)
    assert "judge_3 votes against the candidate" in explanation(decisions[0], "veto")


def test_without_the_veto_votes_are_only_counted() -> None:
    decision = judged(HACKED_PAIR, world=world_of(veto=False))
    assert decision.verdict == "promote"
    assert "veto" not in {line.kind for line in decision.checks}


def test_a_judge_that_is_undecided_is_no_veto() -> None:
    decision = judged(Truth("t", (0.5, 0.5, 0.0)))
    assert (decision.verdict, check(decision, "veto").passed) == ("promote", True)


FAMILIES = ("clip_vit_h_14", "clip_vit_h_14", "blip_vit_l_16")


def test_votes_of_one_encoder_family_are_not_enough() -> None:
    decision = judged(Truth("t", (0.5, 0.5, 0.0)), world=replace(world_of(), families=FAMILIES))
    assert decision.verdict == "hold"
    assert check(decision, "families").measured == 1
    assert explanation(decision, "families").startswith("The judges in favour have 1 encoder family; 2 are required")


def test_an_undecided_judge_of_another_family_leaves_the_verdict_open() -> None:
    decision = judged(Truth("t", (0.5, 0.5, 0.07)), world=replace(world_of(400), families=FAMILIES))
    assert check(decision, "families").note == "undecided"
    assert decision.verdict == "inconclusive"


@pytest.mark.parametrize("policy", [{"required_families": 1}, {"required_judges": 1}])
def test_one_family_is_enough_where_the_policy_needs_one(policy: dict[str, Any]) -> None:
    decision = judged(Truth("t", (0.5, 0.5, 0.0)), world=replace(world_of(**policy), families=FAMILIES))
    assert decision.verdict == "promote"


# --- people's win rate ----------------------------------------------------------------------------------------------


def test_the_smallest_win_rate_worth_having_is_one_of_people() -> None:
    """A judge that agrees with people in 65 % of pairs shows their 0.52 as 0.506."""
    world = replace(world_of(), accuracy=0.65)
    line = check(judged(Truth("t", (0.1,)), world=world), "win_rate:judge_1")
    assert line.bound == pytest.approx(0.52 * 0.65 + 0.48 * 0.35)
    people = (line.measured - 0.35) / 0.3
    assert f"0.52 among people at an agreement of 0.650; the measured one is {people:.3f}" in line.explanation


def test_a_gain_that_only_a_weak_judge_can_show_is_promoted() -> None:
    """A win rate of 0.515 is less than 0.52, but at an agreement of 0.6 people prefer the candidate on 57 %."""
    truth = Truth("t", (0.045,))
    decisions = [
        judged(truth, seed=seed, world=replace(world_of(20_000), accuracy=accuracy))
        for accuracy in (1.0, 0.6)
        for seed in range(3)
    ]
    assert [decision.verdict == "promote" for decision in decisions] == [False] * 3 + [True] * 3


def test_a_judge_that_agrees_by_chance_says_nothing_about_people() -> None:
    world = replace(world_of(calibration_floor=0.0), accuracy=0.4)
    line = check(judged(Truth("t", (0.3,)), world=world), "win_rate:judge_1")
    assert line.bound == 0.5
    assert "says nothing about people" in line.explanation


def test_a_win_rate_beyond_the_agreement_is_not_converted() -> None:
    line = check(judged(Truth("t", (1.0,)), world=replace(world_of(), accuracy=0.65)), "win_rate:judge_1")
    assert (line.measured or 0) > 0.65
    assert "more than a judge of this agreement shows even if people always prefer it" in line.explanation
    assert line.required == ">= 0.506"
