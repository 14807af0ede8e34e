"""Fixtures of every test."""

import math
from collections.abc import Callable

import pytest

FLOAT32_EPS = 2.0**-23


def rounding_of_mean(num_terms: int, size: float) -> float:
    """Return how far two float32 means of the same `num_terms` terms may differ on two processors, in units of `size`.

    Processors differ in the width of their vectors and in fused multiplications, hence in the order of additions. Each
    addition rounds by at most half of eps = 2^-23, with either sign. `num_terms` such errors add up like a random walk
    (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"): for terms of one sign, added one
    after the other, the standard deviation is sqrt(num_terms) * eps / 6 of the mean, and sqrt(2) times that for the
    difference of two orders. sqrt(num_terms) * eps is therefore four standard deviations of the difference. Vectorised
    sums have shorter chains, which leaves room for the rounding of the terms themselves.
    """
    return math.sqrt(num_terms) * FLOAT32_EPS * size


@pytest.fixture(scope="session")
def rounding() -> Callable[[int, float], float]:
    """Give `rounding_of_mean` to tests that compare curves."""
    return rounding_of_mean
