"""Majority, Dawid-Skene and the baseline on labelers of known skill."""

import numpy as np
import pytest

from alignment.labelling.label_model import Opinions, dawid_skene, human_baseline, majority_vote

NUM_ITEMS = 150


def opinions_of(skills: dict[str, float], seed: int = 0) -> tuple[Opinions, np.ndarray]:
    """Labelers right with these probabilities, and what is true of each item (1 or -1)."""
    rng = np.random.default_rng(seed)
    truth_N = rng.choice([-1.0, 1.0], NUM_ITEMS)
    margins = {
        name: truth_N * np.where(rng.random(NUM_ITEMS) < skill, 1.0, -1.0) * rng.uniform(0.5, 2, NUM_ITEMS)
        for name, skill in skills.items()
    }
    return Opinions(tuple(map(str, range(NUM_ITEMS))), margins), truth_N


def accuracy(probabilities_N: np.ndarray, truth_N: np.ndarray) -> float:
    return float(((2 * probabilities_N - 1) * truth_N > 0).mean())


def test_majority_counts_only_those_with_an_opinion() -> None:
    margins = {"a": np.array([1.0, -2.0, 0.0]), "b": np.array([0.1, 3.0, 0.0]), "c": np.array([-5.0, 0.0, 0.0])}
    opinions = Opinions(("0", "1", "2"), margins, {"ann": {0: 1.0}, "bob": {1: -1.0}})
    assert majority_vote(opinions) == pytest.approx([3 / 4, 1 / 3, 0.5])
    assert opinions.num_labelers == 5


def test_dawid_skene_trusts_the_better_labeler_where_the_majority_does_not() -> None:
    opinions, truth_N = opinions_of({"good": 0.95, "fair": 0.7, "poor": 0.55, "poorer": 0.55})
    assert accuracy(dawid_skene(opinions, {}), truth_N) > accuracy(majority_vote(opinions), truth_N) + 0.05


def test_the_posterior_is_bayes_rule_on_the_counted_accuracies() -> None:
    """The truth is known of all items but the last: accuracies are counts, the posterior is a product of odds."""
    margins = {"a": np.array([1.0] * 8 + [-1.0] * 2 + [1.0]), "b": np.array([1.0] * 6 + [-1.0] * 4 + [-1.0])}
    opinions = Opinions(tuple(map(str, range(11))), margins)
    p = dawid_skene(opinions, dict.fromkeys(range(10), True))[10]
    # The last item counts towards the accuracies by its own probability, so the posterior is a fixed point.
    right_a, right_b = (8 + p) / 11, (6 + 1 - p) / 11
    odds = right_a / (1 - right_a) * (1 - right_b) / right_b
    assert odds / (1 + odds) == pytest.approx(p, abs=1e-3)
    assert 0.7 < p < 0.8


def test_swapped_sides_give_the_opposite_probability() -> None:
    opinions, truth_N = opinions_of({"a": 0.9, "b": 0.7, "c": 0.6})
    turned = Opinions(opinions.items, {name: -margins_N for name, margins_N in opinions.margins.items()})
    human = {index: bool(truth_N[index] > 0) for index in range(20)}
    other = {index: not first for index, first in human.items()}
    assert dawid_skene(turned, other) == pytest.approx(1 - dawid_skene(opinions, human), abs=1e-6)
    assert human_baseline(turned, other) == pytest.approx(1 - human_baseline(opinions, human), abs=1e-6)


def test_human_labels_correct_a_wrong_majority() -> None:
    """Two of three labelers are worse than chance: votes alone cannot show it, 40 human labels can."""
    opinions, truth_N = opinions_of({"right": 0.8, "wrong": 0.2, "contrary": 0.2})
    human = {index: bool(truth_N[index] > 0) for index in range(40)}
    rest = slice(40, None)
    assert accuracy(dawid_skene(opinions, {})[rest], truth_N[rest]) < 0.3
    assert accuracy(dawid_skene(opinions, human)[rest], truth_N[rest]) > 0.8
    assert accuracy(human_baseline(opinions, human)[rest], truth_N[rest]) > 0.8


def test_a_human_label_is_kept_and_no_opinion_is_one_half() -> None:
    margins = {"a": np.array([1.0, 1.0, 0.0, 0.0]), "b": np.array([1.0, 1.0, 0.0, 0.0])}
    found = dawid_skene(Opinions(("0", "1", "2", "3"), margins), {0: False, 3: True})
    assert (found[0], found[2], found[3]) == (0, 0.5, 1)


def test_annotators_of_a_crowd_are_separate_labelers() -> None:
    """No annotator compared everything; the one who contradicts the others gets a low weight."""
    crowd = {who: {i: 1.0 if i % 2 else -1.0 for i in range(12) if i % 4 != k} for k, who in enumerate(("a", "b", "c"))}
    crowd["spammer"] = {i: -1.0 if i % 2 else 1.0 for i in range(12)}
    opinions = Opinions(tuple(map(str, range(12))), {}, crowd)
    assert [p > 0.9 for p in dawid_skene(opinions, {})] == [bool(i % 2) for i in range(12)]


def test_the_baseline_weights_labelers_by_the_human_labels() -> None:
    opinions, truth_N = opinions_of({"good": 0.9, "noise": 0.5})
    human = {index: bool(truth_N[index] > 0) for index in range(60)}
    found_N = human_baseline(opinions, human)
    assert accuracy(found_N[60:], truth_N[60:]) > 0.8
    assert ((found_N > 0.5) == (opinions.margins["good"] > 0)).mean() > 0.9
