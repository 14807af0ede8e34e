"""Fixtures of every test, and which tests share a process of `pytest -n`."""

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.data import DatasetSnapshot

FLOAT32_EPS = 2.0**-23
SHARED = ("mlflow_server", "two_ranks")
"""Fixtures that start processes for the whole session: their tests share a worker, so that they start once."""
GROUPS = "PLUMBLINE_TEST_GROUPS"
STORIES = Path(__file__).parent / "integration"
"""Each test of these files goes on from what the one before it left, on a platform that takes minutes to start."""


def pytest_configure(config: pytest.Config) -> None:
    """Name the file through which the workers of pytest-xdist tell its scheduler which tests belong together."""
    if config.getoption("dist", "no") == "loadgroup" and not hasattr(config, "workerinput"):
        os.environ[GROUPS] = str(Path(tempfile.mkdtemp(prefix="test_groups_")) / "groups.json")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Undo the random order of stories, and note the group of each test."""
    stories = [index for index, item in enumerate(items) if STORIES in item.path.parents]
    told = sorted((items[index] for index in stories), key=lambda item: (item.path.name, line_of(item)))
    for index, item in zip(stories, told, strict=True):
        items[index] = item
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0" and GROUPS in os.environ:
        Path(os.environ[GROUPS]).write_text(json.dumps({item.nodeid: group_of(item) for item in items}))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a group in one worker.

    pytest-xdist 3.8 does so by a suffix of the node id, which pytest 9.2 no longer lets it set: its own `loadgroup`
    tells the tests of a group apart.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        groups: dict[str, str] | None = None

        def _split_scope(self, nodeid: str) -> str:
            if self.groups is None:
                path = Path(os.environ[GROUPS])
                self.groups = json.loads(path.read_text())
                shutil.rmtree(path.parent)
            return self.groups[nodeid]

    return ByGroup(config, log)


def line_of(item: pytest.Item) -> int:
    """Return the line on which a test begins."""
    return item.location[1] or 0


def group_of(item: pytest.Item) -> str:
    """Return the name of the tests that run in one worker: those of a shared fixture, of all stories, or of a file."""
    if STORIES in item.path.parents:
        return "stories"
    shared = [name for name in SHARED if name in getattr(item, "fixturenames", ())]
    return shared[0] if shared else str(item.path.relative_to(Path(__file__).parent))


@pytest.fixture(autouse=True)
def usual_arithmetic() -> Iterator[None]:
    """Undo what a test, or a program that it ran in this process, changed in torch: the next test may compare digits.

    With other kernels of attention or other threads the same weights give other last digits.
    """
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        for kernel in ("flash", "mem_efficient", "math"):
            getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(True)


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


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., DatasetSnapshot]:
    """Give a function that makes a snapshot of five pairs, which is stored nowhere; its arguments replace fields."""

    def make(**changes: Any) -> DatasetSnapshot:
        fields: dict[str, Any] = {
            "uri": "file:///store/snapshots/s",
            "content_digest": "5" * 64,
            "num_pairs": {"train": 3, "calibration": 1, "test": 1},
            "num_ties": 0,
            "num_prompts": 5,
            "sources": ("pairs",),
            "licences": ("CC0-1.0",),
            "batch_digests": (),
            "heldout_prompts_digest": "6" * 64,
        }
        return DatasetSnapshot(**{**fields, **changes})

    return make
