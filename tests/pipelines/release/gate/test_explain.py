"""A decision in sentences."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipelines.contracts.release import GateDecision
from pipelines.project.gate import SliceRule
from pipelines.release.gate.explain import explain


def decision_of(evaluation: Any, **changes: Any) -> GateDecision:
    decision: GateDecision = evaluation.decided(**changes)
    return decision


def test_a_promotion_is_explained_with_votes_and_passed_checks(good_evaluation: Any) -> None:
    sentences = explain(decision_of(good_evaluation))
    assert sentences[0] == (
        "Version 4 of shapes may become the champion: it meets every requirement of the policy, but no slice could be"
        " measured."
    )
    assert any("taste_a prefers the candidate" in sentence for sentence in sentences)
    assert "Guards passed: caption_match." in sentences
    assert len(sentences) == len(set(sentences))


def test_a_promotion_without_guards_or_slices_is_explained_with_a_warning(evaluation_of: Callable[..., Any]) -> None:
    evaluation = evaluation_of({"a": 0.6, "b": 0.6}, {})
    sentences = explain(decision_of(evaluation))
    assert sentences[0].endswith("policy, but the policy has no guard and no slice could be measured.")
    assert any(s.startswith("Warning: The policy has no guard") for s in sentences)
    assert any(s.startswith("Warning: No prompt has a category") for s in sentences)
    unsliced = evaluation.policy.model_copy(update={"slices": SliceRule(action="off")})
    first = explain(decision_of(replace(evaluation, policy=unsliced)))[0]
    assert first.endswith("policy, but the policy has no guard.")


def test_a_refusal_begins_with_its_reasons_and_ends_with_what_to_do(evaluation_of: Callable[..., Any]) -> None:
    decision = decision_of(evaluation_of({"a": 0.6, "b": 0.6}, {"match": -1.0}))
    sentences = explain(decision)
    assert sentences[0].startswith("Version 4 of shapes should not replace the base model")
    assert sentences[1] == decision.reasons[0]
    assert "match is broken" in sentences[1]
    assert sentences[-1] == "Train a better candidate; more prompts will not help."


def test_votes_of_invalid_evidence_are_not_explained(good_evaluation: Any) -> None:
    sentences = explain(decision_of(good_evaluation, table_problems=("edited",)))
    assert not any("prefers" in sentence for sentence in sentences)
    assert "edited" in sentences[1]
    assert sentences[-1] == "Fix the problems listed above and evaluate again."


def test_dry_run_mode_is_the_last_sentence(good_evaluation: Any) -> None:
    decision = decision_of(good_evaluation).model_copy(update={"mode": "dry_run"})
    assert explain(decision)[-1] == "The gate is in dry-run mode: this verdict moves no alias."
