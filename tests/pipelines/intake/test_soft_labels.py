"""Labels by policy: hard with a threshold, soft, majority."""

from typing import Any

import pytest

from pipelines.intake.soft_labels import comparison_id, hard, labelled_row, merged_votes, side
from pipelines.project.sections import SnapshotSection


def row(name: str, preference: float, votes: int | None = 1, *, turned: bool = False) -> dict[str, Any]:
    """A comparison of images a and b by one annotator, shown in either order."""
    shas = ("b", "a") if turned else ("a", "b")
    return {
        "pair_id": name,
        "prompt": "p",
        "preference": preference,
        "sha256_0": shas[0],
        "sha256_1": shas[1],
        "num_votes": votes,
        "annotator_id": name,
    }


@pytest.mark.parametrize(
    ("preference", "threshold", "label"),
    [
        *((1.0, 0.5, 1.0), (0.0, 0.5, 0.0), (0.5, 0.5, 0.5), (0.51, 0.5, 1.0), (0.49, 0.5, 0.0)),
        *((0.7, 0.7, 1.0), (0.3, 0.7, 0.0), (0.69, 0.7, 0.5), (0.31, 0.7, 0.5), (1.0, 1.0, 1.0), (0.99, 1.0, 0.5)),
    ],
)
def test_a_hard_label_needs_the_threshold(preference: float, threshold: float, label: float) -> None:
    assert hard(preference, threshold) == label
    assert hard(1 - preference, threshold) == 1 - label


@pytest.mark.parametrize("votes", [3, 7, 9, 10, 11, 13])
def test_a_share_of_counted_votes_at_the_threshold_is_hard_on_both_sides(votes: int) -> None:
    for ours in range(votes // 2 + 1, votes + 1):
        threshold = ours / votes
        assert hard(ours / votes, threshold) == 1
        assert hard((votes - ours) / votes, threshold) == 0


def test_votes_of_several_annotators_are_summed_whatever_the_order_of_the_images() -> None:
    rows = [row("x", 1.0), row("y", 0.0, turned=True), row("z", 0.25, 4), row("z", 0.0, 9), row("w", 0.5, None)]
    (merged,) = merged_votes(rows).values()
    assert (merged.num_votes, merged.num_rows) == (7, 4), "the second z is a copy"
    assert merged.votes_first == pytest.approx(1 + 1 + 1 + 0.5)


def test_each_policy_gives_its_label() -> None:
    rows = [row("x", 1.0), row("y", 1.0), row("z", 0.0)]
    merged = merged_votes(rows)[comparison_id(rows[0])]
    soft = labelled_row(rows[0], SnapshotSection(labels="soft"), merged)
    assert (soft["preference"], soft["num_votes"], soft["annotator_id"]) == (pytest.approx(2 / 3), 3, "")
    assert soft["pair_id"] == comparison_id(rows[0]) == comparison_id(row("q", 0.0, turned=True))
    other = labelled_row(row("q", 0.0, turned=True), SnapshotSection(labels="soft"), merged)
    assert other["preference"] == pytest.approx(1 / 3)
    assert labelled_row(rows[0], SnapshotSection(labels="majority"), merged)["preference"] == 1.0
    alone = row("x", 0.8, 5)
    found = labelled_row(alone, SnapshotSection(labels="soft"), merged_votes([alone])[comparison_id(alone)])
    assert found == alone, "one row keeps its annotator and identity"
    assert labelled_row(alone, SnapshotSection(label_threshold=0.9), None)["preference"] == 0.5


def test_the_side_of_a_share() -> None:
    assert [side(share) for share in (0.0, 0.4, 0.5, 0.6, 1.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
