"""Slices, detectors and power on evidence made to breach each of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alignment.statistics.comparison import SeedGrid
from alignment.statistics.power import win_rate_found
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import GateCheck, GateDecision
from pipelines.project.gate import Detector, DetectorRules, DriftRule, GatePolicy, GuardRule, PowerRule, SliceRule
from pipelines.release.gate import simulation
from pipelines.release.gate.simulated_worlds import Truth, World
from pipelines.release.gate.simulation import TRAINED_ON, _simulate

RULES = {"sharp": DriftRule(action="block", margin=1.0)}


def judged(
    truth: Truth, *, prompts: int = 1000, seeds: tuple[int, ...] = (0, 1), seed: int = 1, **policy: Any
) -> GateDecision:
    world = World(
        policy=GatePolicy(minimum_prompts=100, guards={"g": GuardRule(margin=1.0)}, **policy),
        num_prompts=prompts,
        slices={"people": 0.1, "animals": 0.3, "rare": 0.02, "things": 0.58},
        seeds=seeds,
    )
    return _simulate(world, truth, np.random.default_rng(seed))


def check(decision: GateDecision, name: str) -> GateCheck:
    return next(c for c in decision.checks if c.name == name)


def explanation(decision: GateDecision, name: str) -> str:
    return check(decision, name).explanation


# --- slices ---------------------------------------------------------------------------------------------------------


def test_a_slice_that_got_worse_holds_the_candidate_and_is_named() -> None:
    decision = judged(Truth("t", (0.3,), slice_gain=-0.6))
    assert decision.verdict == "hold"
    assert not check(decision, "slice:people").passed
    assert check(decision, "slice:animals").passed
    assert any("Slice people got worse on 100 prompts" in reason for reason in decision.reasons)


def test_a_slice_of_forty_that_lost_a_standard_deviation_is_seen_under_a_wide_margin() -> None:
    rule = SliceRule(margin=0.15, minimum_prompts=30)
    truth = Truth("t", (0.5,), slice_gain=-1.0)
    worst = [check(judged(truth, prompts=400, slices=rule, seed=seed), "slice:people") for seed in range(1, 6)]
    assert [own.passed for own in worst] == [False] * 5
    assert max(own.measured or 0.0 for own in worst) < 0.35


def test_a_sure_loss_within_the_margin_is_none() -> None:
    """A fifth of a standard deviation over 1000 prompts is beyond doubt; a win rate of 0.42 is not below 0.35."""
    decision = judged(Truth("t", (0.3,), slice_gain=-0.2), prompts=10_000, slices=SliceRule(margin=0.15))
    assert check(decision, "slice:people").passed
    assert not check(
        judged(Truth("t", (0.3,), slice_gain=-0.2), prompts=10_000, slices=SliceRule(margin=0.0)), "slice:people"
    ).passed


def test_without_effect_slices_are_rarely_called_worse() -> None:
    rule = SliceRule(margin=0.0, minimum_prompts=10)
    decisions = [judged(Truth("t"), prompts=300, seeds=(0,), slices=rule, seed=seed) for seed in range(60)]
    assert sum(not c.passed for d in decisions for c in d.checks if c.family == "slices") <= 4


def test_a_small_slice_is_unmeasured_and_stops_nothing() -> None:
    decision = judged(Truth("t", (0.3,)))
    rare = check(decision, "slice:rare")
    assert (rare.note, rare.decisive, rare.measured) == ("unmeasured", False, None)
    assert decision.verdict == "promote"


def test_slices_report_their_number_and_the_loss_they_would_find() -> None:
    decision = judged(Truth("t", (0.3,)))
    line = check(decision, "slices")
    assert (line.measured, line.passed, line.decisive, line.note) == (3, True, False, "")
    assert line.explanation == "3 of 4 slices were measured, 980 of 1000 prompts."
    level = 0.025 / (3 * 3)
    for name, prompts in (("people", 100), ("things", 580)):
        rate = win_rate_found(prompts, limit=0.45, level=level, power=0.9)
        assert f"a single judge would find a win rate of {rate:.2f} or less in 90% of cases" in explanation(
            decision, f"slice:{name}"
        )


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ({}, "No prompt has a category"),
        ({f"s{i}": 1.0 for i in range(25)}, "A slice needs gate.slices.minimum_prompts prompts"),
    ],
)
def test_no_measured_slice_is_a_warning(slices: dict[str, float], message: str) -> None:
    world = World(policy=GatePolicy(minimum_prompts=100), num_prompts=1000, slices=slices)
    decision = _simulate(world, Truth("t", (0.3,)), np.random.default_rng(1))
    line = check(decision, "slices")
    assert (decision.verdict, line.measured, line.note, line.passed) == ("promote", 0, "warning", False)
    assert message in line.explanation
    off = replace(world, policy=GatePolicy(minimum_prompts=100, slices=SliceRule(action="off")))
    assert not [c for c in _simulate(off, Truth("t"), np.random.default_rng(1)).checks if c.name == "slices"]


def test_slices_can_warn_or_be_off() -> None:
    bad = Truth("t", (0.3,), slice_gain=-0.6)
    warned = judged(bad, slices=SliceRule(action="warn"))
    assert (warned.verdict, check(warned, "slice:people").note) == ("promote", "warning")
    assert not [c for c in judged(bad, slices=SliceRule(action="off")).checks if c.family == "slices"]


def judged_on(
    drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, ties: float = 0.0, **policy: Any
) -> GateDecision:
    """The gate's word on given differences by prompt; those of the three judges are `judge` where not named."""
    every = {**{f"judge_{i}": drawn["judge"] for i in (1, 2, 3)}, "g": np.zeros(1000), **drawn}
    del every["judge"]
    monkeypatch.setattr(simulation, "_draw_differences", lambda *a: {k: np.asarray(v, float) for k, v in every.items()})
    world = World(
        policy=GatePolicy(minimum_prompts=100, **{"guards": {"g": GuardRule(margin=1.0)}, **policy}),
        num_prompts=1000,
        slices={"people": 0.1, "animals": 0.3, "rare": 0.02, "things": 0.58},
        tie_thresholds={f"judge_{i}": ties for i in (1, 2, 3)},
    )
    return _simulate(world, Truth("t"), np.random.default_rng(0))


def gains(losses_among_people: int, *, size: float = 1.0) -> list[float]:
    """All 1000 prompts win, but for so many of the first 100, which are the slice `people`."""
    return [-size] * losses_among_people + [1.0] * (1000 - losses_among_people)


def test_harm_that_is_not_significant_after_correction_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """61 losses of 100, all of one size: z = (39 - 61) / sqrt(100) = -2.2, p = 0.0139. There are 9 tests."""
    line = check(judged_on({"judge": gains(61)}, monkeypatch), "slice:people")
    assert line.passed
    assert "p = 0.125 for harm (Holm-corrected, level 0.025)" in line.explanation
    assert not check(judged_on({"judge": gains(75)}, monkeypatch), "slice:people").passed


def test_a_guard_that_must_not_rise_is_asked_so_in_slices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = np.random.default_rng(0).normal(0, 0.1, 1000)
    people = np.arange(1000) < 100
    for better, change, passed in (("lower", 0.5, False), ("lower", -0.5, True), ("higher", -0.5, False)):
        rule = GuardRule(margin=1.0, slice_margin=0.2, better=better)  # type: ignore[arg-type]
        drawn = {"judge": gains(0), "g": spread + change * people}
        assert check(judged_on(drawn, monkeypatch, guards={"g": rule}), "slice:people").passed == passed
        assert check(judged_on(drawn, monkeypatch, guards={"g": rule}), "slice:things").passed


def test_a_loss_within_the_tie_threshold_is_no_loss_of_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"judge": gains(100, size=0.1)}
    assert not check(judged_on(small, monkeypatch, ties=0.05), "slice:people").passed
    within = check(judged_on(small, monkeypatch, ties=0.2), "slice:people")
    assert within.passed
    assert "win rate 0.500 (0 wins, 100 ties, 0 losses)" in within.explanation


# --- detectors ------------------------------------------------------------------------------------------------------


def test_a_trained_on_judge_that_gains_alone_blocks_and_one_that_gains_with_the_others_does_not() -> None:
    hacked = judged(Truth("t", (0.3,), trained_on_gain=1.2))
    assert hacked.verdict == "hold"
    assert check(hacked, f"trained_on_gap:{TRAINED_ON}").measured == pytest.approx(0.9, abs=0.15)
    honest = judged(Truth("t", (0.3,), trained_on_gain=0.45))
    assert honest.verdict == "promote"
    assert check(honest, f"trained_on_gap:{TRAINED_ON}").passed


def test_a_lone_voting_judge_warns_and_blocks_where_asked() -> None:
    alone = Truth("t", (1.3, 0.3, 0.3))
    warned = judged(alone)
    assert (warned.verdict, check(warned, "lone_judge:judge_1").note) == ("promote", "warning")
    assert check(warned, "lone_judge:judge_2").passed
    rules = DetectorRules(lone_judge=Detector(action="block", margin=0.5))
    assert judged(alone, detectors=rules).verdict == "hold"


def test_one_seed_leaves_the_rank_correlation_unmeasured_which_matters_only_where_it_blocks() -> None:
    good = Truth("t", (0.3,))
    line = check(judged(good, seeds=(0,)), "rank_correlation:judge_1:judge_2")
    assert (line.note, line.passed) == ("unmeasured", True)
    rules = DetectorRules(rank_correlation=Detector(action="block", margin=0.2))
    decision = judged(good, seeds=(0,), detectors=rules)
    assert decision.verdict == "invalid"
    assert "two seeds" in decision.reasons[0]
    assert judged(good, detectors=rules).verdict == "promote"


def test_judges_that_agree_less_than_on_the_champion_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion's seeds correlate by one half under every two judges; gains drawn apart do not correlate at all."""
    draw = np.random.default_rng(0).normal
    apart = {f"judge_{i}": draw(0.3, 1, 1000) for i in (1, 2, 3)}
    parted = check(judged_on({"judge": [], **apart}, monkeypatch), "rank_correlation:judge_1:judge_2")
    assert (parted.note, parted.passed) == ("warning", False)
    assert parted.measured == pytest.approx(0.5, abs=0.1)
    together = {f"judge_{i}": apart["judge_1"] + draw(0, 0.5, 1000) for i in (1, 2, 3)}
    agreeing = check(judged_on({"judge": [], **together}, monkeypatch), "rank_correlation:judge_1:judge_2")
    assert (agreeing.note, agreeing.passed) == ("", True)
    rules = DetectorRules(rank_correlation=Detector(action="block", margin=0.2))
    assert judged_on({"judge": [], **apart}, monkeypatch, detectors=rules).verdict == "hold"


def test_a_statistic_that_drifts_either_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = simulation._draw_differences

    def drifted(by: float) -> Any:
        return lambda *a: {**draw(*a), "sharp": draw(*a)["sharp"] + by}

    rules = DetectorRules(drift=RULES)
    for by, verdict in ((0.0, "promote"), (3.0, "hold"), (-3.0, "hold")):
        monkeypatch.setattr(simulation, "_draw_differences", drifted(by))
        decision = judged(Truth("t", (0.3,)), detectors=rules)
        assert decision.verdict == verdict
        assert not [c for c in decision.checks if c.name == "guard:sharp"]


def test_a_margin_in_the_champions_spread_suits_any_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated champion's statistic has standard deviation 1 over prompts; times 1000, the same is decided."""
    grids = simulation._grids
    rules = DetectorRules(drift={"sharp": DriftRule(action="block", margin=0.25, unit="sd")})

    def changed(factor: float, by: float) -> Any:
        def build(world: World, differences: Any, rng: Any) -> ScoreGrids:
            found = grids(world, {**differences, "sharp": 0.3 * differences["sharp"] / world.spread("sharp") + by}, rng)
            scaled = {
                key: SeedGrid(grid.prompts_N, grid.seeds_S, grid.scores_NS * (factor if key[0] == "sharp" else 1))
                for key, grid in found.grids.items()
            }
            return ScoreGrids(scaled, found.categories)

        return build

    for factor in (1.0, 1000.0):
        for by, verdict in ((0.0, "promote"), (0.15, "promote"), (0.4, "hold"), (-0.4, "hold")):
            monkeypatch.setattr(simulation, "_grids", changed(factor, by))
            decision = judged(Truth("t", (0.3,)), detectors=rules)
            line = check(decision, "drift:sharp")
            assert (decision.verdict, line.required) == (verdict, "within 0.25 sd")
            assert line.measured == pytest.approx(by, abs=0.1)


def test_a_champion_without_spread_tolerates_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = simulation._draw_differences
    rules = DetectorRules(drift={"sharp": DriftRule(action="block", margin=0.25, unit="sd")})
    monkeypatch.setattr(World, "in_spreads", lambda *_: False)
    monkeypatch.setattr(simulation, "SEED_SPREAD", 0.0)
    for by, verdict in ((0.0, "promote"), (0.5, "hold")):
        constant = lambda *a, by=by: {**draw(*a), "sharp": 0 * draw(*a)["sharp"] + by}  # noqa: E731
        monkeypatch.setattr(simulation, "_draw_differences", constant)
        assert judged(Truth("t", (0.3,)), detectors=rules).verdict == verdict


def with_norms(ratios: tuple[float, ...], monkeypatch: pytest.MonkeyPatch, **policy: Any) -> GateDecision:
    candidate = simulation._candidate
    measured = lambda spec: candidate(spec).model_copy(update={"prediction_norm_ratios": ratios})  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(simulation, "_candidate", measured)
        return judged(Truth("t", (0.3,)), **policy)


@pytest.mark.parametrize(("ratios", "worst"), [((1.01, 1.3, 0.9, 1.0), 0.3), ((1.0, 1.1, 0.7, 1.0), -0.3)])
def test_predictions_that_are_longer_or_shorter_than_the_bases_are_reported(
    ratios: tuple[float, ...], worst: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned = with_norms(ratios, monkeypatch)
    line = check(warned, "prediction_norm")
    assert (warned.verdict, line.note, line.passed) == ("promote", "warning", False)
    assert line.measured == pytest.approx(worst)
    assert f"{ratios[1]:.3f}, {ratios[2]:.3f}" in line.explanation
    blocks = DetectorRules(prediction_norm=Detector(action="block", margin=0.25))
    assert with_norms(ratios, monkeypatch, detectors=blocks).verdict == "hold"
    assert with_norms((1.0, 1.2, 0.8, 1.0), monkeypatch, detectors=blocks).verdict == "promote"
    off = DetectorRules(prediction_norm=Detector(action="off", margin=0.25))
    assert not [c for c in with_norms(ratios, monkeypatch, detectors=off).checks if c.kind == "prediction_norm"]


def test_a_version_from_before_the_measurement_is_unmeasured_and_invalid_only_where_it_blocks() -> None:
    line = check(judged(Truth("t", (0.3,))), "prediction_norm")
    assert (line.note, line.passed, line.measured) == ("unmeasured", True, None)
    assert judged(Truth("t", (0.3,))).verdict == "promote"
    blocks = DetectorRules(prediction_norm=Detector(action="block", margin=0.25))
    assert judged(Truth("t", (0.3,)), detectors=blocks).verdict == "invalid"


def test_a_gain_that_persists_under_other_prompts_is_style(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = simulation._grids

    def style(*arguments: Any) -> ScoreGrids:
        scores = grids(*arguments)
        changed = dict(scores.grids)
        for judge in ("judge_1", "judge_2", "judge_3"):
            for role in ("candidate", "champion"):
                right = changed[judge, role]
                own = SeedGrid(right.prompts_N, right.seeds_S[:1], right.scores_NS[:, :1] - 5)
                changed[judge, f"{role}_shuffled"] = own
        return ScoreGrids(changed, scores.categories)

    assert check(judged(Truth("t", (0.3,))), "persisting_gain:judge_1").passed
    monkeypatch.setattr(simulation, "_grids", style)
    line = check(judged(Truth("t", (0.3,))), "persisting_gain:judge_1")
    assert (line.note, line.measured) == ("warning", pytest.approx(1.0))
    rules = DetectorRules(persisting_gain=Detector(action="block", margin=0.8))
    assert judged(Truth("t", (0.3,)), detectors=rules).verdict == "hold"


# --- power ----------------------------------------------------------------------------------------------------------


def test_power_decides_where_the_votes_found_nothing_and_informs_for_guards() -> None:
    few = judged(Truth("t", (0.08,)), prompts=400)
    assert few.verdict == "inconclusive"
    assert (check(few, "power").note, check(few, "power").decisive) == ("undecided", True)
    assert "Use 581 prompts." in check(few, "power").explanation
    assert not check(few, "power:g").decisive


def test_a_significant_gain_is_never_inconclusive_for_lack_of_power() -> None:
    """A win rate of 75 % on 500 prompts, which is significant and cannot be chance."""
    clear = judged(Truth("t", (0.95,)), prompts=500)
    assert clear.verdict == "promote"
    assert not check(clear, "power").passed
    assert (check(clear, "power").note, check(clear, "power").decisive) == ("warning", False)
    assert check(clear, "power").explanation.endswith("its size is probably overestimated.")
    assert not [c for c in judged(Truth("t", (0.6,)), power=PowerRule(required=0.0)).checks if c.family == "power"]


def test_the_strict_vote_needs_more_prompts() -> None:
    easy, strict = (
        check(judged(Truth("t", (0.6,)), prompts=700, superiority=kind), "power").measured or 0
        for kind in ("wilcoxon", "win_rate")
    )
    assert strict < 0.6 < 0.9 < easy
