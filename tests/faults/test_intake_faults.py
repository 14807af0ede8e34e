"""Ten kills with SIGKILL at random moments of `plumbline snapshot`, each followed by an undisturbed run.

`PLUMBLINE_FAULT_SEED` repeats the moments.
"""

from pathlib import Path

import pytest
from intake_processes import Installation, seed, shares, undisturbed

NUM_KILLS = 10
pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installation, float]:
    found = undisturbed(tmp_path_factory.mktemp("undisturbed"))
    print(f"\n  undisturbed: {found[1]:.1f} s of work", flush=True)
    return found


@pytest.mark.parametrize("number", range(NUM_KILLS))
def test_a_run_after_a_kill_ends_as_the_undisturbed_one(
    expected: tuple[Installation, float], tmp_path: Path, number: int
) -> None:
    quiet, working_seconds = expected
    share = shares(NUM_KILLS)[number]
    print(f"\n  PLUMBLINE_FAULT_SEED={seed()}, kill number {number + 1}", end=" ", flush=True)
    installation = Installation(tmp_path)
    share = installation.kill_at(share, working_seconds)
    print(f"at {share:.0%} of the work; it left {installation.left_over()}", flush=True)
    installation.run()
    assert installation.digests() == quiet.digests()
    assert installation.left_over() == installation.unfinished() == []
