"""Hand-computed evidence, and error rates over many looks."""

import math

import numpy as np
import pytest

from alignment.statistics.sequential import PRIOR_PICKS, _log_e_value, confidence_sequence

LOOKS = 400
RUNS = 2000


def test_one_win_against_one_half_is_no_evidence() -> None:
    """B(11, 10) / B(10, 10) = 1/2, and the likelihood under one half is 1/2 as well."""
    assert PRIOR_PICKS == 10
    assert _log_e_value(np.array([1.0]), np.array([1.0]), 0.5)[0] == pytest.approx(0.0, abs=1e-12)
    assert _log_e_value(np.array([1.0]), np.array([1.0]), 0.25)[0] == pytest.approx(math.log(2))


def test_evidence_has_expectation_one_under_the_truth() -> None:
    """Over all eight outcomes of three picks, weighted by their chance under 0.3."""
    total = 0.0
    for wins in range(4):
        chance = math.comb(3, wins) * 0.3**wins * 0.7 ** (3 - wins)
        total += chance * math.exp(_log_e_value(np.array([float(wins)]), np.array([3.0]), 0.3)[0])
    assert total == pytest.approx(1.0, abs=1e-12)


def test_bounds_are_where_the_evidence_reaches_the_threshold() -> None:
    """With wins only, the lower bound only rises, so the last is that of all picks."""
    low = confidence_sequence([1] * 60, confidence=0.95).low_N[-1]
    assert _log_e_value(np.array([60.0]), np.array([60.0]), low)[0] == pytest.approx(math.log(20), abs=1e-9)


def test_bounds_never_widen() -> None:
    picks = np.random.default_rng(0).permutation([1] * 70 + [0] * 30).tolist()
    sequence = confidence_sequence(picks, confidence=0.95)
    assert np.all(np.diff(sequence.low_N) >= 0)
    assert np.all(np.diff(sequence.high_N) <= 0)
    assert sequence.low_N[-1] < 0.7 < sequence.high_N[-1]


def test_all_wins_and_all_losses_mirror_each_other() -> None:
    wins, losses = (confidence_sequence([value] * 60, confidence=0.95) for value in (1, 0))
    assert wins.high_N[-1] == 1.0
    assert losses.low_N[-1] == 0.0
    assert wins.low_N[-1] == pytest.approx(1 - losses.high_N[-1], abs=1e-9)
    assert wins.first_above(0.5) == losses.first_below(0.5)


def test_looking_after_every_pick_does_not_raise_the_error() -> None:
    """No difference: of 2000 canaries watched at each of 400 picks, at most 5 % may ever be decided.

    A fixed-sample interval watched the same way is wrong in about a third of them.
    """
    picks_RN = np.random.default_rng(7).integers(0, 2, (RUNS, LOOKS)).astype(np.float64)
    wins_RN, counts_N = picks_RN.cumsum(axis=1), np.arange(1.0, LOOKS + 1)
    crossed = (_log_e_value(wins_RN, counts_N, 0.5) >= math.log(20)).any(axis=1).mean()
    assert crossed <= 0.05
    fixed = np.abs(wins_RN / counts_N - 0.5) > 1.96 * 0.5 / np.sqrt(counts_N)
    assert fixed[:, 20:].any(axis=1).mean() > 0.25, "repeated looks at a fixed-sample interval err far more often"


def test_a_true_difference_is_found_soon() -> None:
    """A win rate of 60 % is detected within 600 picks in nine canaries of ten."""
    picks_RN = (np.random.default_rng(8).random((300, 600)) < 0.6).astype(np.float64)
    evidence_RN = _log_e_value(picks_RN.cumsum(axis=1), np.arange(1.0, 601), 0.5)
    assert (evidence_RN >= math.log(20)).any(axis=1).mean() > 0.9


def test_picks_that_no_rate_explains_are_reported() -> None:
    assert confidence_sequence([1] * 200 + [0] * 400, confidence=0.95).first_contradiction() is not None
    assert confidence_sequence([1, 0] * 100, confidence=0.95).first_contradiction() is None


def test_bad_input_is_refused() -> None:
    for picks in ([], [0, 2], [0.5]):
        with pytest.raises(ValueError, match="0 or 1"):
            confidence_sequence(picks, confidence=0.95)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"between 0\.5 and 1"):
        confidence_sequence([1], confidence=95)
