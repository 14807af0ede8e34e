"""Fixtures of every test, and which tests share a process of `pytest -n`."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

FLOAT32_EPS = 2.0**-23
SHARED = ("mlflow_server", "two_ranks")
"""Fixtures that start processes for the whole session: their tests share a worker, so that they start once."""
STORIES = Path(__file__).parent / "integration"
"""Each test of these files goes on from what the one before it left, on a platform that takes minutes to start."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Undo the random order of stories, and tell pytest-xdist which tests belong together.

    A file's tests stay together because of its module fixtures. `tryfirst`, as xdist reads the groups in the same hook.
    """
    stories = [index for index, item in enumerate(items) if STORIES in item.path.parents]
    told = sorted((items[index] for index in stories), key=lambda item: (item.path.name, line_of(item)))
    for index, item in zip(stories, told, strict=True):
        items[index] = item
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(group_of(item)))


def line_of(item: pytest.Item) -> int:
    """Return the line on which a test begins."""
    return item.location[1] or 0


def group_of(item: pytest.Item) -> str:
    """Return the name of the tests that run in one worker: those of a shared fixture, of all stories, or of a file."""
    if STORIES in item.path.parents:
        return "stories"
    shared = [name for name in SHARED if name in getattr(item, "fixturenames", ())]
    return shared[0] if shared else str(item.path.relative_to(Path(__file__).parent))


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
