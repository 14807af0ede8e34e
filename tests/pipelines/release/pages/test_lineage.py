"""The lineage from pairs to verdict has every stage and digest, and marks gaps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from alignment.contracts.data import DatasetSnapshot, FeatureCache
from pipelines.project.sections import SourceSection
from pipelines.release.pages.lineage import commands, lineage
from pipelines.release.pages.provenance import Provenance

STAGES = ["sources", "batches", "snapshot", "features", "training", "weights", "candidate", "evaluation", "decision"]


@pytest.fixture
def known(make_snapshot: Callable[..., DatasetSnapshot]) -> Provenance:
    """Everything from the pairs to the features."""
    num_pairs = {"train": 30, "calibration": 20, "test": 10}
    batches = ("1" * 64, "2" * 64)
    snapshot = make_snapshot(num_pairs=num_pairs, num_ties=4, num_prompts=55, batch_digests=batches)
    cache = FeatureCache(
        uri="file:///store/features/1",
        content_digest="4" * 64,
        spec_digest="5" * 64,
        num_pairs=28,
        num_captions=25,
        latent_shape=(4, 8, 8),
    )
    source = SourceSection(name="shapes_pairs", kind="pick_a_pic", uri="/data/pairs", licence="CC0-1.0")
    return Provenance(sources=(source,), snapshot=snapshot, cache=cache)


def test_every_stage_is_listed_in_the_order_of_the_data(
    good_evaluation: Any, good_decision: Any, known: Provenance
) -> None:
    steps = lineage(good_evaluation.report, good_decision, known)
    assert [step.title for step in steps] == STAGES
    texts = {step.title: step for step in steps}
    assert texts["sources"].text == "shapes_pairs (pick_a_pic, licence CC0-1.0)."
    assert texts["batches"].text == "2 immutable batches, validated row by row."
    counts = "60 accepted pairs: 30 for training, 20 for calibration, 10 for test; 55 prompts, 4 ties in all."
    assert texts["snapshot"].text.startswith(counts)
    assert texts["features"].text == "28 training pairs with a preference, encoded as latents of shape 4 x 8 x 8."
    digests = {digest for step in steps for _, digest in step.digests}
    spec, candidate = good_evaluation.report.spec, good_decision.candidate
    assert digests >= {"1" * 64, "4" * 64, candidate.weights_digest, candidate.spec_digest, candidate.base_digest}
    assert digests >= {spec.digest, good_decision.digest, good_decision.scores_digest, good_decision.policy_digest}
    assert digests >= {scorer.weights_digest for scorer in (*spec.judges, *spec.guards)}


def test_shares_of_votes_that_trained_as_hard_labels_are_stated(
    good_evaluation: Any, good_decision: Any, known: Provenance
) -> None:
    def text(num_soft: int | None) -> str:
        snapshot = known.snapshot.model_copy(update={"num_soft": num_soft}) if known.snapshot else None
        steps = lineage(good_evaluation.report, good_decision, dataclasses.replace(known, snapshot=snapshot))
        return next(step.text for step in steps if step.title == "snapshot")

    assert "7 labels are shares of votes: training took the favoured image and left out ties." in text(7)
    assert "shares of votes" not in text(0) + text(None)


def test_stages_without_a_record_are_marked(good_evaluation: Any, good_decision: Any) -> None:
    texts = {step.title: step.text for step in lineage(good_evaluation.report, good_decision, Provenance())}
    assert texts["batches"] == texts["features"] == "No record in the store."
    assert texts["snapshot"] == "Only the digest is recorded."
    assert texts["sources"] == "shapes_pairs."


def test_commands_name_project_and_version(good_decision: Any) -> None:
    typed = [command for _, command in commands(good_decision)]
    assert "plumbline gate projects/shapes.toml --version 4" in typed
