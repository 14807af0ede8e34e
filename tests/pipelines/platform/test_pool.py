"""The pool is missing, too small, or does not count jobs that wait: each is one message with the fix."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.platform.pool import pool_problem, slots_in_words
from pipelines.project.file import load_project

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("slots", "deferred", "problem"),
    [
        (2, True, ""),
        (3, True, ""),
        (-1, True, ""),
        (1, True, "has 1 slot, but placement.train of 'shapes' has num_processes = 2, and each process takes one"),
        (0, True, "has 0 slots, but"),
        (2, False, "does not count deferred tasks"),
    ],
)
def test_a_pool_is_as_it_must_be_or_its_fault_is_named(slots: int, deferred: bool, problem: str) -> None:
    shapes = load_project(ROOT / "projects/shapes.toml")
    found = pool_problem({"slots": slots, "include_deferred": deferred}, [shapes])
    assert problem in found
    assert bool(found) == bool(problem)
    assert not problem or "plumbline setup-airflow" in found


def test_a_pool_without_limit_is_described() -> None:
    assert slots_in_words(-1) == "unlimited slots"


def test_a_container_reads_the_number_of_slots() -> None:
    environment = {"PLUMBLINE_PROJECTS_DIR": str(ROOT / "projects"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines.platform.pool"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=60)
    assert done.stdout == "2\n"
