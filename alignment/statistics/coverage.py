"""Repeated sampling: the chance that the best of k images is good, and the expected score of the best. Torch-free.

Source: Brown et al. 2024, arXiv:2407.21787 (coverage, power law in eq. 3); the unbiased estimator is that of pass@k in
Chen et al. 2021, arXiv:2107.03374, section 2.1. Shape letters: P prompts, N images of a prompt, R resamples.
"""

from collections.abc import Mapping

import numpy as np

from alignment.contracts.coverage import CoverageCurve, CoveragePoint, PowerLaw
from alignment.contracts.evaluation import Role
from alignment.statistics.comparison import Floats, Integers

RESAMPLES = 2000
RESAMPLING_SEED = 0
LEAST_POINTS = 3
"""Two points fit any power law, so at least three are needed."""


def coverage_curves(scores_PN: Mapping[Role, Floats], *, bar: float, confidence: float) -> tuple[CoverageCurve, ...]:
    """Compute each model's curve for k = 1..N.

    An image is good when it scores above the `bar` quantile of the base's images of the same prompt: judges' levels
    differ from prompt to prompt, so only differences within a prompt are meaningful. Raises ValueError when a score
    is not finite, or the models differ in their numbers of prompts or images.
    """
    shapes = {role: scores.shape for role, scores in scores_PN.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"The models were scored on different grids of prompts x seeds: {shapes}. Sample them again.")
    broken = [role for role, scores in scores_PN.items() if not np.isfinite(scores).all()]
    if broken:
        raise ValueError(f"Scores of {', '.join(broken)} are not finite. Check those images and the judge.")
    bar_P = np.quantile(scores_PN["base"], bar, axis=1)
    return tuple(
        _coverage_curve(role, scores, bar_P=bar_P, confidence=confidence) for role, scores in scores_PN.items()
    )


def _coverage_curve(role: Role, scores_PN: Floats, *, bar_P: Floats, confidence: float) -> CoverageCurve:
    """Compute one model's curve; intervals are percentile bootstraps over prompts, all seeds of a prompt together."""
    good_P = (scores_PN > bar_P[:, None]).sum(axis=1)
    num_prompts, num_images = scores_PN.shape
    chosen_RP = np.random.default_rng(RESAMPLING_SEED).integers(0, num_prompts, (RESAMPLES, num_prompts))
    tail = 100 * (1 - confidence) / 2
    points = []
    for k in range(1, num_images + 1):
        coverage_P = _chance_of_one(good_P, num_images, k)
        low, high = np.percentile(coverage_P[chosen_RP].mean(axis=1), [tail, 100 - tail])
        points.append(
            CoveragePoint(
                num_samples=k,
                coverage=float(coverage_P.mean()),
                coverage_low=float(low),
                coverage_high=float(high),
                best_score=float(_expected_best(scores_PN, k).mean()),
            )
        )
    curve = np.asarray([point.coverage for point in points])
    return CoverageCurve(role=role, points=tuple(points), power_law=_fit_power_law(curve))


def _chance_of_one(good_P: Integers, num_images: int, k: int) -> Floats:
    """Return, for each prompt, the chance that k of its N images, drawn without replacement, include a good one.

    1 - C(N - good, k) / C(N, k), computed as a product to avoid overflow. Unbiased for k independent images, where the
    plug-in 1 - (1 - good / N)^k is too low.
    """
    bad_P = num_images - good_P
    none_P = np.ones(len(good_P))
    for drawn in range(k):
        none_P = none_P * np.maximum(bad_P - drawn, 0) / (num_images - drawn)
    return np.asarray(1.0 - none_P, dtype=np.float64)


def _expected_best(scores_PN: Floats, k: int) -> Floats:
    """Return, for each prompt, the expected largest score among k of its N images, drawn without replacement.

    The i-th smallest of N is the largest of k with chance C(i - 1, k - 1) / C(N, k).
    """
    num_images = scores_PN.shape[1]
    weights_N = np.zeros(num_images)
    weights_N[-1] = k / num_images
    for rank in range(num_images - 1, k - 1, -1):  # C(rank - 1, k - 1) from C(rank, k - 1)
        weights_N[rank - 1] = weights_N[rank] * (rank - k + 1) / rank
    return np.asarray(np.sort(scores_PN, axis=1) @ weights_N, dtype=np.float64)


def _fit_power_law(coverage_K: Floats) -> PowerLaw | None:
    """Least squares of log(-log coverage) on log k, k = 1..K; None where fewer than three points are usable."""
    samples_K = np.arange(1, len(coverage_K) + 1)
    inner = (coverage_K > 0) & (coverage_K < 1)
    if inner.sum() < LEAST_POINTS:
        return None
    slope, intercept = np.polyfit(np.log(samples_K[inner]), np.log(-np.log(coverage_K[inner])), 1)
    scale, exponent = float(np.exp(intercept)), float(-slope)
    error_K = np.abs(np.exp(-scale * samples_K**-exponent) - coverage_K)
    return PowerLaw(
        scale=scale, exponent=exponent, num_points=int(inner.sum()), largest_error=float(error_K[inner].max())
    )
