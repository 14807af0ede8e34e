"""The gate's verdicts: what promotes, what holds, and that no damaged evidence ever promotes."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from alignment.catalogues.rewards import ClipScore
from alignment.contracts.evaluation import EvalReport, ModelRef
from alignment.statistics.agreement import disattenuated_win_rate
from alignment.statistics.skewness import skewed_mean_interval
from pipelines.contracts.release import GateCheck, GateDecision
from pipelines.project.gate import Detector, DetectorRules, GatePolicy, GuardRule, PowerRule

OTHER = "0" * 64
WARNS = Detector(action="warn", margin=0.3)

AGREEMENT = 0.8
"""Every judge's agreement with people in `good_evaluation`."""


def gate(evaluation: Any, **changes: Any) -> GateDecision:
    """Decide on an evaluation, with any of the gate's inputs exchanged."""
    decision: GateDecision = evaluation.decided(**changes)
    return decision


def check(decision: GateDecision, name: str) -> GateCheck:
    return next(c for c in decision.checks if c.name == name)


def with_spec(report: EvalReport, **changes: Any) -> EvalReport:
    return report.model_copy(update={"spec": report.spec.model_copy(update=changes)})


def with_comparison(report: EvalReport, scorer: str, **changes: Any) -> EvalReport:
    """The report with one scorer's comparison against the champion altered."""
    comparisons = tuple(
        c.model_copy(update=changes) if (c.scorer, c.against) == (scorer, "champion") else c for c in report.comparisons
    )
    return report.model_copy(update={"comparisons": comparisons})


def with_calibration(report: EvalReport, judge: str, **changes: Any) -> EvalReport:
    calibrations = tuple(c.model_copy(update=changes) if c.judge == judge else c for c in report.calibrations)
    return report.model_copy(update={"calibrations": calibrations})


def with_judge(report: EvalReport, name: str, **changes: Any) -> EvalReport:
    judges = tuple(j.model_copy(update=changes) if j.name == name else j for j in report.spec.judges)
    return with_spec(report, judges=judges)


# --- verdicts -----------------------------------------------------------------------------------------------------


def test_a_better_candidate_is_promoted(good_evaluation: Any) -> None:
    decision = gate(good_evaluation)
    assert decision.verdict == "promote"
    assert decision.reasons == ()
    assert [c.name for c in decision.checks if not c.passed] == ["slices"], "the prompts name no category"
    assert check(decision, "preferred_by_judges").measured == 2
    assert decision.report_digest == good_evaluation.report.digest
    assert decision.policy_digest == good_evaluation.policy.digest
    assert decision.scores_digest == good_evaluation.report.scores_digest


def test_a_worse_candidate_is_held(evaluation_of: Callable[..., Any]) -> None:
    decision = gate(evaluation_of({"taste_a": -0.6, "taste_b": -0.5}, {"caption_match": 0.0}))
    assert decision.verdict == "hold"
    assert "2 vote against it" in decision.reasons[0]


def test_one_judge_against_is_enough_to_put_two_out_of_reach(evaluation_of: Callable[..., Any]) -> None:
    assert gate(evaluation_of({"a": 0.6, "b": -0.5}, {})).verdict == "hold"


def test_no_clear_difference_is_inconclusive(evaluation_of: Callable[..., Any]) -> None:
    decision = gate(evaluation_of({"taste_a": 0.6, "taste_b": 0.02}, {}))
    assert decision.verdict == "inconclusive"
    assert "More prompts may decide" in decision.reasons[0]
    assert not check(decision, "win_rate:taste_b").passed


def test_a_broken_guard_holds_and_an_undecided_one_is_inconclusive(evaluation_of: Callable[..., Any]) -> None:
    gains = {"taste_a": 0.6, "taste_b": 0.5}
    broken = gate(evaluation_of(gains, {"caption_match": -1.0}))
    assert broken.verdict == "hold"
    assert "caption_match is broken" in broken.reasons[0]
    undecided = gate(evaluation_of(gains, {"caption_match": -0.5}))
    assert undecided.verdict == "inconclusive"
    assert gate(evaluation_of(gains, {"caption_match": -0.2})).verdict == "promote"


def test_all_guards_must_hold(evaluation_of: Callable[..., Any]) -> None:
    gains = {"taste_a": 0.6, "taste_b": 0.5}
    assert gate(evaluation_of(gains, {"caption_match": 0.3, "diversity": -1.0})).verdict == "hold"


def test_invalid_outweighs_everything(evaluation_of: Callable[..., Any]) -> None:
    decision = gate(evaluation_of({"a": -1.0, "b": -1.0}, {"g": -2.0}), table_problems=("edited",))
    assert decision.verdict == "invalid"


def test_the_champion_itself_is_held(good_evaluation: Any) -> None:
    decision = gate(
        good_evaluation, champion_version=4, champion_weights_digest=good_evaluation.candidate.weights_digest
    )
    assert decision.verdict == "hold"
    assert "has the same weights as the champion" in decision.reasons[0]


@pytest.mark.parametrize("mode", ["off", "dry_run", "enforce"])
def test_the_mode_is_carried_and_changes_nothing(good_evaluation: Any, mode: str) -> None:
    policy = good_evaluation.policy.model_copy(update={"mode": mode})
    decision = gate(good_evaluation, policy=policy)
    assert (decision.mode, decision.verdict) == (mode, "promote")


def test_the_strict_vote_compares_the_minimum_with_the_lower_bound(good_evaluation: Any) -> None:
    strict = good_evaluation.policy.model_copy(update={"superiority": "win_rate"})
    powerless = PowerRule(required=0.0)
    decision = gate(good_evaluation, policy=strict)
    low = min(check(decision, f"win_rate:{j}").measured or 0 for j in ("taste_a", "taste_b"))
    people = disattenuated_win_rate(low, AGREEMENT)
    just_below = strict.model_copy(update={"minimum_win_rate": people - 1e-6, "power": powerless})
    exactly = strict.model_copy(update={"minimum_win_rate": people + 1e-9, "power": powerless})
    assert gate(good_evaluation, policy=just_below).verdict == "promote"
    assert gate(good_evaluation, policy=exactly).verdict == "inconclusive"


def test_choosing_k_of_n_costs_confidence(evaluation_of: Callable[..., Any]) -> None:
    """The same judge's bound is lower where more judges give more chances; with k = n it is the report's own."""
    strict = {"superiority": "win_rate"}
    evaluation = evaluation_of({"a": 0.4, "b": 0.4, "c": 0.4}, {})
    bounds = [
        check(
            gate(evaluation, policy=evaluation.policy.model_copy(update={**strict, "required_judges": k})), "win_rate:a"
        )
        for k in (1, 3)
    ]
    assert (bounds[0].measured or 0) < (bounds[1].measured or 0)
    assert bounds[1].measured == pytest.approx(evaluation.report.comparisons[0].win_rate_low)


def test_two_of_three_is_the_partial_conjunction_of_reference(evaluation_of: Callable[..., Any]) -> None:
    """2 of 3 passes exactly when twice the second smallest p is at most the level; a vote's p is the larger of the
    signed-rank test's and the mean's, shown by a bound above 0."""
    for seed in range(40):
        evaluation = evaluation_of({"a": 0.12, "b": 0.12, "c": 0.12}, {}, seed=seed)
        evaluation = replace(evaluation, policy=evaluation.policy.model_copy(update={"minimum_win_rate": 0.0}))
        bounds = [skewed_mean_interval(evaluation.scores.differences(j, "champion"), confidence=0.975) for j in "abc"]
        p_values = sorted(
            max(comparison.p_value, float(low <= 0))
            for comparison, (low, _) in zip(evaluation.report.comparisons[::2], bounds, strict=True)
        )
        assert check(gate(evaluation), "preferred_by_judges").passed == (2 * p_values[1] <= 0.025)


def test_a_significant_but_tiny_gain_is_not_worth_having(good_evaluation: Any) -> None:
    rate = max(c.win_rate for c in good_evaluation.report.comparisons if c.scorer == "taste_b")
    people = disattenuated_win_rate(rate, AGREEMENT)
    picky = good_evaluation.policy.model_copy(update={"minimum_win_rate": people + 0.001})
    decision = gate(good_evaluation, policy=picky)
    assert decision.verdict == "inconclusive"
    assert check(decision, "superiority:taste_b").passed
    assert not check(decision, "win_rate:taste_b").passed


def test_a_minimum_standardised_effect_is_asked_of_each_vote(good_evaluation: Any) -> None:
    effects = [c.mean_difference for c in good_evaluation.report.comparisons if c.against == "champion"]
    assert min(effects[:2]) == pytest.approx(0.5, abs=0.15)
    asks_more = good_evaluation.policy.model_copy(update={"minimum_effect": 0.9})
    assert gate(good_evaluation, policy=asks_more).verdict == "inconclusive"
    asks_less = good_evaluation.policy.model_copy(update={"minimum_effect": 0.3})
    assert gate(good_evaluation, policy=asks_less).verdict == "promote"


@pytest.mark.parametrize("required", [1, 2])
def test_equal_models_are_almost_never_promoted(evaluation_of: Callable[..., Any], required: int) -> None:
    """400 A/A candidates under three judges: at most the nominal 2.5 % plus three standard errors."""
    gains = {"a": 0.0, "b": 0.0, "c": 0.0}
    promoted = sum(
        gate(evaluation_of(gains, {}, num_prompts=100, required_judges=required, seed=seed)).verdict == "promote"
        for seed in range(400)
    )
    assert promoted <= 400 * 0.025 + 3 * (400 * 0.025 * 0.975) ** 0.5


# --- damaged evidence: none of it may promote ---------------------------------------------------------------------

ATTACKS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "win rate is NaN": lambda e: {"report": with_comparison(e.report, "taste_a", win_rate_low=math.nan)},
    "guard bound is NaN": lambda e: {
        "report": with_comparison(e.report, "caption_match", mean_difference_low=math.nan)
    },
    "guard bound is infinite": lambda e: {
        "report": with_comparison(e.report, "caption_match", mean_difference_low=math.inf)
    },
    "calibration is NaN": lambda e: {"report": with_calibration(e.report, "taste_a", accuracy_low=math.nan)},
    "counts do not add up": lambda e: {"report": with_comparison(e.report, "taste_a", wins=1000)},
    "counts are negative": lambda e: {"report": with_comparison(e.report, "taste_a", wins=400, losses=-200, ties=0)},
    "no counts": lambda e: {"report": with_comparison(e.report, "taste_a", wins=0, losses=0, ties=0, num_prompts=0)},
    "fewer prompts under one judge": lambda e: {
        "report": with_comparison(e.report, "taste_a", wins=100, losses=0, ties=0, num_prompts=100)
    },
    "judge not measured": lambda e: {
        "report": e.report.model_copy(
            update={"comparisons": tuple(c for c in e.report.comparisons if c.scorer != "taste_b")}
        )
    },
    "judge measured twice": lambda e: {
        "report": e.report.model_copy(update={"comparisons": e.report.comparisons + e.report.comparisons[:1]})
    },
    "no calibration": lambda e: {"report": e.report.model_copy(update={"calibrations": ()})},
    "uncalibrated judge": lambda e: {"report": with_calibration(e.report, "taste_b", accuracy_low=0.52)},
    "too few human pairs": lambda e: {"report": with_calibration(e.report, "taste_b", num_pairs=49)},
    "judge trained on the same source": lambda e: {
        "report": with_judge(e.report, "taste_b", trained_on=("shapes_pairs",))
    },
    "model trained on the judge": lambda e: {
        "candidate": e.candidate.model_copy(update={"trained_on": ("shapes_pairs", "taste_a")})
    },
    "model trained on the judge's labels": lambda e: {
        "candidate": e.candidate.model_copy(update={"trained_on": ("panel_taste_a",)})
    },
    "model rewarded by the judge under another name": lambda e: {
        "candidate": e.candidate.model_copy(
            update={"trained_on": ("reward", f"scorer {e.report.spec.judges[0].weights_digest}")}
        )
    },
    "model trained on the guard": lambda e: {
        "candidate": e.candidate.model_copy(update={"trained_on": ("caption_match",)})
    },
    "one judge under two names": lambda e: {
        "report": with_judge(e.report, "taste_b", weights_digest=e.report.spec.judges[0].weights_digest)
    },
    "one judge under two settings": lambda e: {
        "report": with_judge(
            e.report, "taste_b", weights_digest=e.report.spec.judges[0].weights_digest, scorer=ClipScore()
        )
    },
    "one judge in two folders": lambda e: {
        "report": with_judge(with_judge(e.report, "taste_a", identity=OTHER), "taste_b", identity=OTHER)
    },
    "model rewarded by the judge from another folder": lambda e: {
        "report": with_judge(e.report, "taste_a", identity=OTHER),
        "candidate": e.candidate.model_copy(update={"trained_on": ("reward", f"scorer {OTHER}")}),
    },
    "model rewarded by the judge before weights had an identity": lambda e: {
        "report": with_judge(e.report, "taste_a", identity=OTHER),
        "candidate": e.candidate.model_copy(
            update={"trained_on": ("reward", f"scorer {e.report.spec.judges[0].weights_digest}")}
        ),
    },
    "other candidate": lambda e: {"report": with_spec(e.report, candidate=ModelRef(kind="lora", weights_digest=OTHER))},
    "other base": lambda e: {"candidate": e.candidate.model_copy(update={"base_digest": OTHER})},
    "candidate as another kind": lambda e: {"candidate": e.candidate.model_copy(update={"kind": "full"})},
    "champion has moved on": lambda e: {"champion_version": 3, "champion_weights_digest": OTHER},
    "champion is no longer the base": lambda e: {"champion_version": 3},
    "report against an old champion": lambda e: {
        "report": with_spec(e.report, champion=ModelRef(kind="lora", weights_digest=OTHER))
    },
    "too few prompts": lambda e: {"policy": e.policy.model_copy(update={"minimum_prompts": 201})},
    "scoring problems": lambda e: {"report": e.report.model_copy(update={"problems": ("black image",)})},
    "table edited": lambda e: {"table_problems": ("win_rate: reported 0.9, recomputed 0.4",)},
    "rewarded by a scorer that nobody measured": lambda e: {
        "candidate": e.candidate.model_copy(update={"trained_on": ("hidden", f"scorer {OTHER}")})
    },
    "guard without a rule": lambda e: {"policy": e.policy.model_copy(update={"guards": {}})},
    "guard not measured": lambda e: {
        "policy": e.policy.model_copy(update={"guards": {**e.policy.guards, "diversity": GuardRule(margin=0.1)}})
    },
    "other prompts than the project's": lambda e: {"prompts_digest": OTHER},
    "judge barred from outside": lambda e: {"barred": {"taste_a": "was last checked 120 days ago, more than 90"}},
    "fewer judges than the policy wants on the panel": lambda e: {
        "policy": e.policy.model_copy(update={"minimum_voting_judges": 3})
    },
    "more judges required than exist": lambda e: {"policy": e.policy.model_copy(update={"required_judges": 3})},
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_damaged_evidence_is_invalid(good_evaluation: Any, attack: str) -> None:
    decision = gate(good_evaluation, **ATTACKS[attack](good_evaluation))
    assert decision.verdict == "invalid"
    assert decision.reasons
    assert all(reason.endswith(".") for reason in decision.reasons)
    assert GateDecision.model_validate_json(decision.model_dump_json()) == decision


def test_a_refused_judge_is_named_with_the_reason(good_evaluation: Any) -> None:
    decision = gate(good_evaluation, **ATTACKS["judge trained on the same source"](good_evaluation))
    refused = check(decision, "may_vote:taste_b")
    assert not refused.passed
    assert "both learnt from shapes_pairs" in refused.explanation
    assert not any(c.name == "win_rate:taste_b" for c in decision.checks)


def test_weights_that_may_not_vote_may_not_do_so_under_another_name(evaluation_of: Callable[..., Any]) -> None:
    evaluation = evaluation_of({"a": 0.6, "b": 0.6, "c": 0.6}, {})
    report = with_judge(evaluation.report, "a", identity=OTHER, trained_on=("shapes_pairs",))
    decision = gate(evaluation, report=with_judge(report, "c", identity=OTHER))
    assert "has the same weights as a, which may not vote" in check(decision, "may_vote:c").explanation
    assert decision.verdict == "invalid"
    twins = with_judge(with_judge(evaluation.report, "a", identity=OTHER), "c", identity=OTHER)
    voted = check(gate(evaluation, report=twins), "may_vote:c")
    assert "has the same weights as a, which already votes" in voted.explanation


def test_older_reports_without_an_identity_read_and_digest_as_before(good_evaluation: Any) -> None:
    written = good_evaluation.report.model_dump(mode="json")
    assert "identity" not in written["spec"]["judges"][0]
    assert EvalReport.model_validate(written).digest == good_evaluation.report.digest


def test_a_refused_judge_does_not_stop_enough_others(evaluation_of: Callable[..., Any]) -> None:
    evaluation = evaluation_of({"a": 0.6, "b": 0.6, "c": -1.0}, {})
    report = with_judge(evaluation.report, "c", trained_on=("shapes_pairs",))
    assert gate(evaluation, report=report).verdict == "promote"


def test_each_faulty_guard_is_named_with_its_fault(good_evaluation: Any) -> None:
    without = gate(good_evaluation, **ATTACKS["guard without a rule"](good_evaluation))
    assert "gate.guards.caption_match" in without.reasons[0]
    unmeasured = gate(good_evaluation, **ATTACKS["guard not measured"](good_evaluation))
    assert "diversity is in the policy but was not measured" in unmeasured.reasons[0]


def test_an_optimised_scorer_has_to_be_measured_where_its_detector_blocks(evaluation_of: Callable[..., Any]) -> None:
    """A judge of its name with other weights is not it. Where the detector only warns, the decision reports it."""
    evaluation = evaluation_of({"a": 0.6, "b": 0.6, "reward": 0.6}, {})
    reward = next(judge for judge in evaluation.report.spec.judges if judge.name == "reward")
    taught = evaluation.candidate.model_copy(update={"trained_on": reward.training_sources})
    measured = gate(evaluation, candidate=taught)
    assert (measured.verdict, check(measured, "trained_on_gap:reward").passed) == ("promote", True)
    report = with_judge(evaluation.report, "reward", weights_digest=OTHER)
    blind = gate(evaluation, candidate=taught, report=report)
    assert blind.verdict == "invalid"
    assert any("Add it to evaluation.judges" in reason for reason in blind.reasons)
    line = check(blind, f"trained_on_gap:{reward.weights_digest[:12]}")
    assert (line.note, line.passed, line.measured) == ("unmeasured", False, None)
    warns = evaluation.policy.model_copy(update={"detectors": DetectorRules(trained_on_gap=WARNS)})
    heard = check(gate(evaluation, candidate=taught, report=report, policy=warns), line.name)
    assert (heard.note, heard.passed, heard.decisive) == ("unmeasured", True, False)


def test_the_policy_alone_changes_its_digest(good_evaluation: Any) -> None:
    stricter = GatePolicy(**{**good_evaluation.policy.model_dump(), "minimum_win_rate": 0.55})
    assert gate(good_evaluation, policy=stricter).policy_digest != gate(good_evaluation).policy_digest
