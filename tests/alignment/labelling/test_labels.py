"""Decisions row by row, and a report that compares the label model with the plain baseline."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.judges import Judge
from alignment.contracts.labelling import LabelModel, LabelSpec, ProxyVoting
from alignment.data.human_labels import Ballot
from alignment.labelling.labels import Scores, _Labelling, _margins, label, pick_human_labels

Make = Callable[..., Any]
NUM_ITEMS = 120


@pytest.fixture
def spec(plain_snapshot: DatasetSnapshot, make_judge: Callable[..., Judge]) -> Callable[..., LabelSpec]:
    """A spec with judges a and b, or with judge a only for a proxy vote; `changes` replace fields."""

    def make(method: ProxyVoting | LabelModel, **changes: Any) -> LabelSpec:
        judges = (make_judge("a", "a", "panel"), make_judge("b", "b"))
        fields: dict[str, Any] = {
            "snapshot": plain_snapshot,
            "judges": judges[:1] if isinstance(method, ProxyVoting) else judges,
            "method": method,
            "relabelled_sources": ("people",),
            "human_sources": ("people",) if isinstance(method, LabelModel) else (),
        }
        return LabelSpec(**{**fields, **changes})

    return make


def scores_of(*margins_N: float) -> Scores:
    return Scores(list(margins_N), [0.0] * len(margins_N))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"item-{index}" for index in range(count))


def test_a_proxy_vote_is_the_judges_order_with_strict_ties(spec: Make, make_ballot: Make) -> None:
    train = [make_ballot(0, -1), make_ballot(1, 1), make_ballot(2, 1), make_ballot(2, -1, source="drawn")]
    heldout = [make_ballot(3, 1), make_ballot(4, 1), make_ballot(5, -1), make_ballot(6, 1)]
    scores = {"a": scores_of(2.0, -0.1, 0.0, 1.0, -1.0, -3.0, 0.0)}
    found = label(spec(ProxyVoting()), names(7), scores, train=train, heldout=heldout)
    assert [d and (d.preference, d.labeler) for d in found.decisions] == [
        (1, "proxy_vote a"),
        (-1, "proxy_vote a"),
        (0, "proxy_vote a"),
        None,
    ]
    report = found.report
    assert (report.num_labelled, report.num_without_opinion, report.num_untouched) == (2, 1, 1)
    (line,) = report.accuracies
    assert (line.name, line.num_pairs, line.num_undecided, line.accuracy) == ("a", 4, 1, (2 + 0.5) / 4)
    assert (report.heldout_kept_share, report.heldout_kept_accuracy) == (3 / 4, 2 / 3)


def test_training_sources_name_every_judge_by_weights_and_labels(spec: Make) -> None:
    assert spec(ProxyVoting()).training_sources == tuple(sorted(("a", f"scorer {'a' * 64}", "panel")))
    method = LabelModel(heuristics=("contrast",))
    assert set(spec(method).training_sources) == {
        "a",
        "b",
        f"scorer {'a' * 64}",
        f"scorer {'b' * 64}",
        "panel",
        "heuristic contrast",
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_name_the_judge(spec: Make, make_ballot: Make, bad: float) -> None:
    with pytest.raises(ValueError, match=r"Labeler 'a' gave scores that are not finite on 1 of 3 pairs"):
        label(spec(ProxyVoting()), names(3), {"a": scores_of(1.0, bad, 0.0)}, train=[make_ballot(0)], heldout=[])
    with pytest.raises(ValueError, match="Labeler 'x'"):
        _margins("x", Scores([1.0], [bad]))


# --- the label model --------------------------------------------------------------------------------------------------


def noisy_world(make_ballot: Make, skills: Sequence[float]) -> tuple[dict[str, Scores], list[Ballot], list[Ballot]]:
    """Scores of judges a, b... of these skills, 80 training and 40 held-out ballots with true labels."""
    rng = np.random.default_rng(3)
    truth_N = rng.choice([-1.0, 1.0], NUM_ITEMS)
    scores = {
        name: scores_of(*(truth_N * np.where(rng.random(NUM_ITEMS) < skill, 1, -1)))
        for name, skill in zip("abc", skills, strict=False)
    }
    ballots = [make_ballot(index, truth_N[index]) for index in range(NUM_ITEMS)]
    return scores, ballots[:80], ballots[80:]


def model_labels(spec: LabelSpec, scores: dict[str, Scores], train: list[Ballot], heldout: list[Ballot]) -> _Labelling:
    return label(spec, names(NUM_ITEMS), scores, train=train, heldout=heldout)


def test_the_report_has_every_labeler_every_method_and_the_baseline(spec: Make, make_ballot: Make) -> None:
    scores, train, heldout = noisy_world(make_ballot, (0.9, 0.7))
    method = LabelModel(human_labels=30, minimum_human_labels=20, minimum_confidence=0.6)
    report = model_labels(spec(method), scores, train, heldout).report
    ways = ["majority_vote", "label_model", "label_model_with_human_labels", "human_baseline"]
    assert [line.name for line in report.accuracies] == ["a", "b", *ways]
    right = sum(scores["a"].first[80 + n] * ballot.preference > 0 for n, ballot in enumerate(heldout))
    assert report.accuracy_of("a").accuracy == right / 40
    assert all(line.accuracy_low < line.accuracy < line.accuracy_high for line in report.accuracies)
    assert report.num_human_labels == 30
    assert report.num_labelled + report.num_below_confidence + report.num_without_opinion == 50
    assert report.labels_from == "label_model_with_human_labels"


def test_human_labels_stay_and_the_model_labels_the_rest(spec: Make, make_ballot: Make) -> None:
    scores, train, heldout = noisy_world(make_ballot, (1.0, 0.6))
    method = LabelModel(human_labels=30, minimum_human_labels=20)
    chosen = pick_human_labels(train, spec(method), method)
    # The human labels are wrong about every pair outside the chosen ones: none of those may be used.
    lied = [b if b.pair_id in chosen else make_ballot(int(b.item[5:]), -b.preference) for b in train]
    found = model_labels(spec(method), scores, lied, heldout)
    for ballot, decision in zip(train, found.decisions, strict=True):
        if ballot.pair_id in chosen:
            assert decision is None
        else:
            assert decision is not None
            assert (decision.preference, decision.labeler) == (ballot.preference, "label_model")


def test_labels_below_the_stated_confidence_are_ties(spec: Make, make_ballot: Make) -> None:
    scores, train, heldout = noisy_world(make_ballot, (0.75, 0.7))
    kept = [
        model_labels(
            spec(LabelModel(human_labels=30, minimum_human_labels=20, minimum_confidence=confidence)),
            scores,
            train,
            heldout,
        )
        for confidence in (0.5, 0.99)
    ]
    low, high = (found.report for found in kept)
    assert low.num_below_confidence == 0 < high.num_below_confidence
    assert low.num_labelled == high.num_labelled + high.num_below_confidence
    ties = sum(d is not None and d.preference == 0 for d in kept[1].decisions)
    assert ties == high.num_below_confidence + high.num_without_opinion


def test_the_selected_human_labels_depend_on_the_seed_only(spec: Make, make_ballot: Make) -> None:
    train = [make_ballot(n, 0 if n % 3 == 0 else 1, source="people" if n % 2 else "crowd") for n in range(60)]
    first, again, other = (
        pick_human_labels(rows, spec(method), method)
        for rows, method in (
            (train, LabelModel(human_labels=10, minimum_human_labels=10, seed=1)),
            (train[::-1], LabelModel(human_labels=10, minimum_human_labels=10, seed=1)),
            (train, LabelModel(human_labels=10, minimum_human_labels=10, seed=2)),
        )
    )
    assert set(first) == set(again) != set(other)
    assert all(b.source == "people" and not b.is_tie for b in first.values())


def test_too_few_human_labels_are_refused(spec: Make, make_ballot: Make) -> None:
    train = [make_ballot(n, 1 if n < 12 else 0) for n in range(40)]
    method = LabelModel()
    with pytest.raises(ValueError, match="has 12 human labels in the training split and needs 50"):
        pick_human_labels(train, spec(method), method)


def test_a_model_that_does_not_beat_the_baseline_gives_a_warning(spec: Make, make_ballot: Make) -> None:
    """Two judges that copy each other outvote a better one; only the human labels reveal it."""
    scores, train, heldout = noisy_world(make_ballot, (0.55, 0.55, 0.95))
    scores["b"] = scores["a"]
    judges = spec(LabelModel()).judges
    spec_of_three = spec(
        LabelModel(human_labels=30, minimum_human_labels=20),
        judges=(*judges, judges[0].model_copy(update={"name": "c"})),
    )
    report = model_labels(spec_of_three, scores, train, heldout).report
    model, baseline = (report.accuracy_of(n).accuracy for n in ("label_model_with_human_labels", "human_baseline"))
    assert model <= baseline
    assert "does not beat the plain baseline on 30 human labels" in report.warnings[0]
    assert 'labels_from = "human_baseline"' in report.warnings[0]
    better = spec_of_three.model_copy(
        update={"method": spec_of_three.method.model_copy(update={"labels_from": "human_baseline"})}
    )
    assert model_labels(better, scores, train, heldout).report.labels_from == "human_baseline"


def test_a_crowd_votes_where_its_source_is_not_a_human_source(spec: Make, make_ballot: Make) -> None:
    """One judge and a crowd that is always right: its source gets labels but does not count as truth."""
    scores, train, heldout = noisy_world(make_ballot, (0.6,))
    crowd = [
        make_ballot(int(b.item[5:]), b.preference, who=who, source="crowd")
        for b in train[30:]
        for who in ("x", "y", "z")
    ]
    method = LabelModel(crowd=True, minimum_human_labels=20)
    one_judge = spec(method, judges=spec(method).judges[:1], relabelled_sources=("crowd",), human_sources=("people",))
    found = model_labels(one_judge, scores, [*train[:30], *crowd], heldout)
    assert found.decisions[:30] == (None,) * 30
    assert [d and d.preference for d in found.decisions[30:]] == [ballot.preference for ballot in crowd]
    with pytest.raises(ValueError, match="needs at least 2 labelers, got 1"):
        model_labels(one_judge, scores, train[:30], heldout)
