"""Statistics of guards and slices: hand-computed values, duality, other libraries, and error rates."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from alignment.statistics.noninferiority import (
    holm,
    mcnemar_p_value,
    mean_below_p_value,
    paired_share_interval,
    share_interval,
)


def test_exact_mcnemar_by_hand() -> None:
    assert mcnemar_p_value(5, 0) == pytest.approx(1 / 32)
    assert mcnemar_p_value(3, 1) == pytest.approx(5 / 16)
    assert mcnemar_p_value(0, 7) == 1.0
    assert mcnemar_p_value(0, 0) == 1.0


def test_paired_share_interval_is_tangos() -> None:
    """Seven pairs worsened and one improved of 21: Fagerland, Lydersen and Laake 2014 print -0.517 to -0.026."""
    assert paired_share_interval(7, 1, 21, confidence=0.95) == pytest.approx((-0.517, -0.026), abs=0.001)
    low, high = paired_share_interval(1, 7, 21, confidence=0.95)
    assert (low, high) == pytest.approx((0.026, 0.517), abs=0.001)


def test_paired_share_interval_without_any_change_is_not_a_point() -> None:
    low, high = paired_share_interval(0, 0, 1000, confidence=0.95)
    # Tango's bound without changes: z squared over the prompts and z squared.
    assert low == pytest.approx(-3.8415 / 1003.8415, rel=1e-3)
    assert high == pytest.approx(-low)
    assert paired_share_interval(20, 0, 20, confidence=0.95)[0] == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="counts must be at least 0"):
        paired_share_interval(11, 10, 20, confidence=0.95)


def test_paired_share_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        worsened, improved, _ = rng.multinomial(200, [0.02, 0.05, 0.93])
        low, high = paired_share_interval(int(worsened), int(improved), 200, confidence=0.95)
        covered += low <= 0.03 <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.03)


def test_share_interval_is_wilsons() -> None:
    assert share_interval(0, 100, confidence=0.95) == pytest.approx((0.0, 0.03699), abs=1e-4)


def test_mean_below_is_the_t_test() -> None:
    values = np.array([0.1, -0.4, 0.3, -0.2, -0.9])
    assert mean_below_p_value(values, 0.0) == pytest.approx(stats.ttest_1samp(values, 0.0, alternative="less").pvalue)
    assert mean_below_p_value(np.full(5, -1.0), 0.0) == 0.0
    assert mean_below_p_value(np.full(5, 1.0), 0.0) == 1.0


def test_holm_by_hand_and_by_statsmodels() -> None:
    adjusted, rejected = holm([0.01, 0.04, 0.03], level=0.05)
    assert adjusted == pytest.approx([0.03, 0.06, 0.06])
    assert rejected == [True, False, False]
    p_values = np.random.default_rng(0).uniform(0, 0.2, 20)
    expected = multipletests(p_values, alpha=0.05, method="holm")
    assert holm(p_values.tolist(), level=0.05)[0] == pytest.approx(expected[1])
    assert holm([], level=0.05) == ([], [])
