"""`plumbline snapshot` through kills; ten of them at more moments are in tests/faults/test_intake_faults.py."""

import os
import signal
from pathlib import Path

import pytest
from intake_processes import RUN_SECONDS, Installation, end, seed, shares, undisturbed, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUM_KILLS = 3


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installation, float]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


def test_after_kills_the_next_run_ends_as_if_there_had_been_none(
    expected: tuple[Installation, float], tmp_path: Path
) -> None:
    print(f"PLUMBLINE_FAULT_SEED={seed()}")
    quiet, working_seconds = expected
    installation = Installation(tmp_path)
    for share in shares(NUM_KILLS):
        installation.kill_at(share, working_seconds)
    installation.run()
    assert installation.digests() == quiet.digests()
    assert installation.left_over() == installation.unfinished() == []


def test_killed_decoding_processes_are_replaced(expected: tuple[Installation, float], tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    process = installation.start()
    try:
        raw = installation.store_dir / "raw"
        wait_until(lambda: list(raw.glob("*/manifest.json")) or process.poll() is not None, RUN_SECONDS)
        workers = [pid for pid in installation.processes(process.pid) if pid != process.pid]
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        _, message = process.communicate(timeout=RUN_SECONDS)
        assert process.returncode == 0, message
    finally:
        end(process)
    assert installation.digests() == expected[0].digests()
    assert installation.left_over() == installation.unfinished() == []
