"""Repeated sampling: estimators against enumeration, curves against known laws."""

import itertools
import math

import numpy as np
import pytest

from alignment.statistics.coverage import _chance_of_one, _expected_best, _fit_power_law, coverage_curves


@pytest.mark.parametrize("good", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_chance_of_one_is_the_share_of_subsets_that_hold_a_good_image(good: int, k: int) -> None:
    images = [1] * good + [0] * (5 - good)
    subsets = list(itertools.combinations(images, k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert _chance_of_one(np.asarray([good]), 5, k)[0] == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("k", range(1, 6))
def test_expected_best_is_the_mean_over_subsets(k: int) -> None:
    scores = [0.3, -1.0, 2.5, 2.5, 0.0]
    subsets = list(itertools.combinations(scores, k))
    mean = sum(max(subset) for subset in subsets) / len(subsets)
    assert _expected_best(np.asarray([scores]), k)[0] == pytest.approx(mean, abs=1e-12)


def test_the_estimator_is_unbiased_where_the_plug_in_is_not() -> None:
    chance, images, k = 0.2, 6, 4
    good_P = np.random.default_rng(5).binomial(images, chance, 200_000)
    truth = 1 - (1 - chance) ** k
    assert _chance_of_one(good_P, images, k).mean() == pytest.approx(truth, abs=0.003)
    assert (1 - (1 - good_P / images) ** k).mean() < truth - 0.05


def test_curves_of_three_models_share_each_prompts_bar() -> None:
    rng = np.random.default_rng(0)
    level = 10 * rng.normal(size=(60, 1))
    base = rng.normal(size=(60, 8)) + level
    scores = {"candidate": base + 1.0, "champion": base, "base": base}
    candidate, champion, plain = coverage_curves(scores, bar=0.75, confidence=0.95)
    assert [curve.role for curve in (candidate, champion, plain)] == ["candidate", "champion", "base"]
    assert champion.points == plain.points
    # Two of the base's eight images lie above its own quantile, whatever the prompt: by chance alone.
    lucky = [1 - math.comb(6, k) / math.comb(8, k) for k in range(1, 9)]
    assert [point.coverage for point in plain.points] == pytest.approx(lucky)
    assert candidate.points[0].coverage > 0.5
    coverages = [point.coverage for point in candidate.points]
    assert coverages == sorted(coverages)
    assert all(point.coverage_low <= point.coverage <= point.coverage_high for point in candidate.points)
    assert plain.points[-1].best_score == pytest.approx(base.max(axis=1).mean())


def test_a_harder_prompt_has_a_lower_bar() -> None:
    base = np.asarray([[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]])
    better = base + np.asarray([[5.0], [-5.0]])
    candidate, _ = coverage_curves({"candidate": better, "base": base}, bar=0.5, confidence=0.95)
    assert [point.coverage for point in candidate.points] == [0.5] * 4


def test_intervals_are_over_prompts_not_images() -> None:
    """Prompts that are all good or all bad are 20 observations, not 160: Wilson's width for 10 of 20 is 0.40."""
    base = np.zeros((20, 8))
    candidate = np.repeat(np.asarray([-1.0, 1.0] * 10)[:, None], 8, axis=1)
    curve, _ = coverage_curves({"candidate": candidate, "base": base}, bar=0.5, confidence=0.95)
    point = curve.points[0]
    assert point.coverage == 0.5
    assert 0.35 < point.coverage_high - point.coverage_low <= 0.5


def test_a_power_law_is_recovered() -> None:
    samples = np.arange(1, 17)
    law = _fit_power_law(np.exp(-2.5 * samples**-0.6))
    assert law is not None
    assert (law.scale, law.exponent) == pytest.approx((2.5, 0.6))
    assert law.num_points == 16
    assert law.largest_error < 1e-12


@pytest.mark.parametrize("curve", [[0.5, 0.7], [0.0, 0.0, 0.0, 0.0], [0.4, 0.8, 1.0, 1.0]])
def test_too_few_points_give_no_law(curve: list[float]) -> None:
    assert _fit_power_law(np.asarray(curve)) is None


def test_scores_that_are_not_finite_are_named() -> None:
    scores = np.zeros((3, 2))
    broken = scores.copy()
    broken[1, 1] = math.nan
    with pytest.raises(ValueError, match="Scores of candidate are not finite"):
        coverage_curves({"candidate": broken, "base": scores}, bar=0.9, confidence=0.95)


def test_different_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="different grids"):
        coverage_curves({"candidate": np.zeros((3, 2)), "base": np.zeros((3, 4))}, bar=0.9, confidence=0.95)
