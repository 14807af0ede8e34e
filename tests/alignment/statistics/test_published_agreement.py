"""Hand-counted agreement: four definitions applied to one set of scores."""

import math

import pytest

from alignment.statistics.published_agreement import (
    _hpsv2_accuracy,
    _hpsv2_inversion,
    _hpsv2_predicted_ranks,
    _imagereward_accuracy,
    _mps_inversion,
    _pickscore_accuracy,
    _pickscore_chance,
    _Ranking,
)

# People: image 0 best, 1 and 2 tied, 3 worst. Scores: 0 above 1, 1 equals 3, 2 lowest.
ONE = _Ranking(human_rank=(1, 2, 2, 3), score=(0.9, 0.5, 0.1, 0.5))


def test_one_prompt_four_ways() -> None:
    # Ranked pairs: 01 right, 02 right, 03 right, 13 tied by the judge, 23 wrong; 12 is a human tie.
    assert _hpsv2_accuracy(ONE) == pytest.approx(3 / 5)
    assert _hpsv2_predicted_ranks(ONE) == [0, 1, 3, 2]
    assert _hpsv2_inversion(ONE) == pytest.approx(5 / 6)
    assert _mps_inversion(ONE) == pytest.approx(5 / 6)
    assert _mps_inversion(_Ranking((1, 2), (0.1, 0.9))) == 0
    assert _imagereward_accuracy([ONE, _Ranking((2, 1), (0.0, 1.0))]) == pytest.approx(4 / 6)


def test_agreement_without_ranked_pairs_is_nan() -> None:
    assert math.isnan(_hpsv2_accuracy(_Ranking((1, 1), (0.0, 1.0))))
    assert math.isnan(_imagereward_accuracy([]))
    assert _hpsv2_inversion(_Ranking((1, 1), (0.0, 1.0))) == 1


def test_half_credit_where_exactly_one_is_a_tie() -> None:
    first_wins, labels = (0.9, 0.2, 0.55, 0.55), (1.0, 1.0, 0.5, 0.0)
    assert _pickscore_accuracy(first_wins, labels, 0.0) == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert _pickscore_accuracy(first_wins, labels, 0.2) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert _pickscore_chance(labels, 0.0) == 0.5
    assert _pickscore_chance(labels, 1.0) == pytest.approx(0.5 + 0.5 / 4)
