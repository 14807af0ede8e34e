"""A judge's vote: strict order, flagged ties, refused scores."""

import math

import pytest

from alignment.labelling.proxy_vote import _ProxyVote, proxy_votes


def test_the_second_image_wins_only_when_strictly_better() -> None:
    votes = proxy_votes([0.3, 0.1, -2.0], [0.1, 0.3, math.nextafter(-2.0, 0)])
    assert [vote.preferred for vote in votes] == [0, 1, 1]
    assert [vote.is_tie for vote in votes] == [False, False, False]
    assert [vote.preference for vote in votes] == [1.0, 0.0, 0.0]


def test_ties_keep_the_order_and_are_flagged() -> None:
    (vote,) = proxy_votes([21.5], [21.5])
    assert vote == _ProxyVote(preferred=0, is_tie=True)
    assert vote.preference == 0.5


def test_swapped_images_swap_the_vote() -> None:
    first, second = [0.1, 5.0, 3.0], [0.2, 4.0, 3.0]
    straight, turned = proxy_votes(first, second), proxy_votes(second, first)
    assert [a.preference + b.preference for a, b in zip(straight, turned, strict=True)] == [1.0, 1.0, 1.0]


def test_only_the_order_counts() -> None:
    first, second = [0.1, -0.4, 0.3], [0.2, -0.5, 0.3]
    assert proxy_votes(first, second) == proxy_votes([98 * s for s in first], [98 * s for s in second])


def test_scores_that_cannot_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 pairs .* first pair 1: nan and 0\.5"):
        proxy_votes([0.0, math.nan, 1.0], [0.1, 0.5, math.inf])
    with pytest.raises(ValueError, match="2 scores of images 0 and 1 of images 1"):
        proxy_votes([0.0, 1.0], [0.1])
