"""A decision in sentences."""

from collections.abc import Callable
from typing import Any

from pipelines.contracts import GateDecision
from pipelines.release.explain import explain
from pipelines.release.gate import decide


def decision_of(evaluation: Any, **changes: Any) -> GateDecision:
    given = {"champion_version": None, "champion_weights_digest": evaluation.champion_weights_digest}
    return decide(
        evaluation.report,
        evaluation.policy,
        evaluation.candidate,
        scores=evaluation.scores,
        **{"table_problems": (), **given, **changes},
    )


def test_a_promotion_is_told_with_its_votes_and_what_holds(good_evaluation: Any) -> None:
    sentences = explain(decision_of(good_evaluation))
    assert sentences[0] == "Version 4 of shapes may become the champion: everything that the policy asks for holds."
    assert any("taste_a prefers the candidate" in sentence for sentence in sentences)
    assert "Guards that hold: caption_match." in sentences
    assert len(sentences) == len(set(sentences))


def test_a_refusal_begins_with_its_reasons_and_ends_with_what_to_do(evaluation_of: Callable[..., Any]) -> None:
    decision = decision_of(evaluation_of({"a": 0.6, "b": 0.6}, {"match": -1.0}))
    sentences = explain(decision)
    assert sentences[0].startswith("Version 4 of shapes should not replace the base model")
    assert sentences[1] == decision.reasons[0]
    assert "match is broken" in sentences[1]
    assert sentences[-1] == "Train a better candidate; more prompts will not help."


def test_votes_of_unusable_evidence_are_not_told(good_evaluation: Any) -> None:
    sentences = explain(decision_of(good_evaluation, table_problems=("edited",)))
    assert not any("prefers" in sentence for sentence in sentences)
    assert "edited" in sentences[1]
    assert sentences[-1] == "Mend what is named above and evaluate again."


def test_a_dry_gate_says_so_last(good_evaluation: Any) -> None:
    decision = decision_of(good_evaluation).model_copy(update={"mode": "dry_run"})
    assert explain(decision)[-1] == "The gate runs dry: no alias moves by this verdict."
