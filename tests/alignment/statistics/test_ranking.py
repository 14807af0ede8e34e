"""Rankings of several models, and the pooled share of images won."""

import math

import numpy as np
import pytest

from alignment.statistics.ranking import (
    _average_win_rates,
    _bradley_terry,
    _bradley_terry_decided,
    _newman,
    _pooled_outcomes,
)


def test_two_models_have_the_log_odds_of_their_games() -> None:
    """Three wins, one loss: strengths 3 : 1. With four ties more it is 5 : 3."""
    games = [("a", "b", "x")] * 3 + [("b", "a", "x")]
    ties = [("a", "b", "tie")] * 4
    assert _bradley_terry(games)["a"] == pytest.approx(math.log(3) / 2, abs=1e-6)
    assert _bradley_terry(games + ties)["a"] == pytest.approx(math.log(5 / 3) / 2, abs=1e-6)
    assert _bradley_terry_decided(games + ties) == pytest.approx(_bradley_terry(games))
    assert _newman(games)["a"] == pytest.approx(math.log(3) / 2, abs=1e-4)


def test_best_comes_first_and_logs_are_centred() -> None:
    games = [("a", "b", "x")] * 3 + [("a", "b", "y")] + [("b", "c", "x")] * 3 + [("b", "c", "y")] + [("c", "a", "x")]
    games += [("a", "c", "x")] * 3
    for ranking in (_bradley_terry(games), _newman(games)):
        assert list(ranking) == ["a", "b", "c"]
        assert sum(ranking.values()) == pytest.approx(0.0)
    assert list(_average_win_rates(games)) == ["a", "b", "c"]


def test_no_game_and_unknown_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        _bradley_terry([])
    with pytest.raises(ValueError, match="Unknown outcomes draw"):
        _bradley_terry([("a", "b", "draw")])  # type: ignore[list-item]


def test_pooled_cells_are_counted_but_prompts_are_resampled() -> None:
    """Ten prompts whose four seeds always agree: the interval is that of ten observations, not of forty."""
    candidate = np.repeat([[1.0]] * 7 + [[-1.0]] * 3, 4, axis=1)
    found = _pooled_outcomes(candidate, np.zeros((10, 4)), tie_threshold=0.0, confidence=0.95)
    assert (found.wins, found.ties, found.losses, found.win_rate) == (28, 0, 12, 0.7)
    assert (found.low, found.high) == (pytest.approx(0.4, abs=0.11), pytest.approx(1.0, abs=0.11))
    half = _pooled_outcomes(candidate, candidate, tie_threshold=0.0, confidence=0.95)
    assert (half.ties, half.win_rate, half.low, half.high) == (40, 0.5, 0.5, 0.5)
