"""Shares of votes, choices and rankings."""

import datetime
import math
from typing import Any

import pytest

from pipelines.intake.sources.reading.votes import (
    ILLEGAL,
    Vote,
    chosen,
    counted,
    liked,
    moment,
    number,
    ranked_pairs,
    shared,
)


@pytest.mark.parametrize(
    ("votes", "label"),
    [((3, 1), Vote(0.75, 4)), (("3", 1.0), Vote(0.75, 4)), ((0, 2), Vote(0.0, 2)), ((5, 5), Vote(0.5, 10))],
)
def test_counts_of_votes_are_a_share(votes: tuple[Any, Any], label: Vote) -> None:
    assert counted(*votes) == label


@pytest.mark.parametrize("votes", [(0, 0), (-1, 3), (1.5, 1), (None, 1), ("x", 1), (True, 1), (math.inf, 1)])
def test_other_counts_are_illegal(votes: tuple[Any, Any]) -> None:
    assert counted(*votes) is ILLEGAL


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, None, "most", True])
def test_a_share_outside_0_to_1_is_illegal(share: Any) -> None:
    assert shared(share) is ILLEGAL


def test_a_share_keeps_its_number_of_votes() -> None:
    assert (shared(0.3), shared("0.3", 7)) == (Vote(0.3, None), Vote(0.3, 7))
    assert [shared(0.3, votes) for votes in (0, -2, 2.5, "few")] == [ILLEGAL] * 4


def test_choices_are_compared_as_text() -> None:
    values = ["Left", "right ", 1, 1.0, "tie", "both", "other", "", None]
    found = [chosen(value, "left", "right", ("tie", "both")) for value in values]
    assert found == [Vote(1.0), Vote(0.0), ILLEGAL, ILLEGAL, Vote(0.5), Vote(0.5), ILLEGAL, None, None]
    assert [chosen(value, "0", "1", ()) for value in (0, 1.0)] == [Vote(1.0), Vote(0.0)]


@pytest.mark.parametrize("images", [2, 3, 4, 9])
def test_a_ranking_weighs_as_many_as_its_independent_comparisons(images: int) -> None:
    found = list(ranked_pairs(list(range(images))))
    assert len(found) == images * (images - 1) // 2
    assert sum(pair.weight for pair in found) == pytest.approx(images - 1)
    assert {pair.vote for pair in found} == {Vote(1.0)}, "they are in order"


def test_rankings_of_people_are_counted_and_ties_are_half() -> None:
    ranks, people = [1, 2, None], [[1, 2, 3], [2, 1, 3], [1, 1, 2], [1, 2]]
    found = {(pair.first, pair.second): pair.vote for pair in ranked_pairs(ranks, people)}
    assert found == {(0, 1): Vote(0.5, 3), (0, 2): Vote(1.0, 3), (1, 2): Vote(1.0, 3)}
    alone = {(pair.first, pair.second): pair.vote for pair in ranked_pairs(ranks)}
    assert alone == {(0, 1): Vote(1.0, 1), (0, 2): ILLEGAL, (1, 2): ILLEGAL}
    assert list(ranked_pairs([1])) == list(ranked_pairs([])) == []


def test_numbers_and_times() -> None:
    assert [number(value) for value in (1, "2.5", None, True, "x", math.nan, [1])] == [1, 2.5, *[None] * 5]
    expected = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    naive = expected.replace(tzinfo=None)
    for value in (expected, naive, "2026-01-02T03:04:05Z", "2026-01-02 04:04:05+01:00", 1767323045, "1767323045"):
        assert moment(value) == expected
    extreme = datetime.datetime.max.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-1)))
    assert [moment(value) for value in ("soon", None, -1, 1e20, extreme, b"x")] == [None] * 6


def test_likes_are_true_or_one_or_a_word() -> None:
    likes = [True, 1, 1.0, "1", "1.0", " 1 ", "true", "Yes", "LIKE", "liked ", "up"]
    assert {liked(value) for value in likes} == {Vote(1.0)}
    dislikes = [False, 0, 0.0, "0", "0.00", "False", "no", "dislike", "Disliked", "down"]
    assert {liked(value) for value in dislikes} == {Vote(0.0)}
    assert [liked(value) for value in (None, "", "  ", math.nan)] == [None] * 4
    assert {id(liked(value)) for value in (2, -1, 0.5, "0.5", math.inf, "maybe", [1], {"a": 1}, b"1")} == {id(ILLEGAL)}
