"""Tolerances of training curves."""

import math
from collections.abc import Callable
from typing import Any

import pytest

Curve = list[tuple[int, dict[str, float]]]
ERRORS = ("chosen_error", "rejected_error", "chosen_error_minus_reference", "rejected_error_minus_reference")
LIPSCHITZ = 1.0
"""Largest slope of -log sigmoid, of a hinge, and of an error as its own loss."""


@pytest.fixture(scope="session")
def curve_tolerance(rounding: Callable[[int, float], float]) -> Callable[..., dict[str, float]]:
    """Give a function of a bench, a spec and a curve: the largest difference of each metric that rounding explains.

    An error is the mean of the C * H * W squares of a latent, about 1.2 in size. On 256 values its rounding is
    r = sqrt(256) * 2^-23 * 1.2 = 2.3e-6 (`rounding_of_mean`); an error less that of the reference rounds twice.
    The margin of a pair is beta / 2 times a sum of four errors: beta / 2 * sqrt(4) * r = beta * r, at beta 500 1.1e-3,
    and the mean over the 8 pairs of a batch is better by sqrt(8): 4e-4. The loss has a slope of 1 in it at most.
    Each pair weights its gradient by sigmoid(-margin), whose slope is 1/4 where the value is 1/2, so the norm of the
    gradient is uncertain by half of beta * r of itself.
    Seen with the kernels of SSE4, AVX2 and AVX-512 on one processor: 1.2e-7, 3.4e-5, 1.7e-5 and 7e-5 of itself.
    The weights drift apart as well, by the rounded gradients: at learning rate 1e-3, ten steps of 3,000 weights whose
    gradients differ by 1e-5 of themselves move the weights by 1e-3 * 10 * sqrt(3000) * 1e-5 = 5e-6 and, under a
    gradient of norm 0.7, the loss by 4e-6, which is too little to count.
    A change of the pairs, of their noise, their order between batches or their weights moves errors by 1e-3 and more.
    """

    def tolerance(bench: Any, spec: Any, curve: Curve) -> dict[str, float]:
        size = max(metrics[name] for _, metrics in curve for name in ERRORS[:2])
        error = rounding(math.prod(bench.cache.latent_shape), size)
        pair = spec.recipe.objective.beta * error
        margin = pair / math.sqrt(spec.recipe.global_batch)
        norm = max(metrics["gradient_norm"] for _, metrics in curve)
        return {
            **dict.fromkeys(ERRORS[:2], error),
            **dict.fromkeys(ERRORS[2:], math.sqrt(2) * error),
            "margin": margin,
            "loss": LIPSCHITZ * margin,
            "gradient_norm": pair / 2 * norm,
        }

    return tolerance


@pytest.fixture(scope="session")
def assert_one_curve(curve_tolerance: Callable[..., dict[str, float]]) -> Callable[..., None]:
    """Give a function that fails where two curves of Diffusion-DPO differ by more than rounding explains.

    implicit_accuracy counts signs, and a margin within its rounding of zero may fall on either side; the margin itself
    is compared.
    """

    def check(bench: Any, spec: Any, ours: Curve, theirs: Curve) -> None:
        allowed = curve_tolerance(bench, spec, theirs)
        for (step, found), (other, expected) in zip(ours, theirs, strict=True):
            assert step == other
            assert found.keys() == expected.keys()
            compared = found.keys() - {"implicit_accuracy"}
            wrong = {
                name: (found[name], expected[name])
                for name in compared
                if abs(found[name] - expected[name]) > allowed.get(name, 0.0)
            }
            assert not wrong, f"step {step}: {wrong}; allowed {allowed}"

    return check
