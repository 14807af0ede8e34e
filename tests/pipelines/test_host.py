import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.host import (
    JOB_MARK,
    _marked_pids,
    _start_ticks,
    is_alive,
    kill_marked,
    kill_session,
    record_of,
    session_pids,
    this_host,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
ORPHAN = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
os._exit(0)
"""


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, env={**os.environ, JOB_MARK: str(tmp_path)}) as process:
        yield process
        process.kill()


def test_a_recycled_pid_or_another_boot_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    record = record_of(sleeper.pid)
    assert is_alive(record)
    assert not is_alive(record.model_copy(update={"started_ticks": record.started_ticks + 1}))
    assert not is_alive(record.model_copy(update={"boot_id": "another"}))
    assert not is_alive(None)


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    record = record_of(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{sleeper.pid}").exists(), "not reaped yet"
    assert _start_ticks(sleeper.pid) is None
    assert not is_alive(record)


def test_the_mark_finds_an_orphan_in_a_separate_session_and_no_other_job(tmp_path: Path) -> None:
    environ = {**os.environ, JOB_MARK: str(tmp_path / "job")}
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, *SLEEP], env=environ, stdout=subprocess.PIPE, text=True, check=True, timeout=20
    )
    orphan = int(done.stdout)
    assert _marked_pids(tmp_path / "job") == [orphan]
    assert _marked_pids(tmp_path / "jo") == []
    assert kill_marked(tmp_path / "job") == 1
    assert _start_ticks(orphan) is None
    assert kill_marked(tmp_path / "job") == 0


def test_the_host_has_the_name_that_the_network_knows() -> None:
    assert this_host() == socket.gethostname()


def test_a_session_is_found_with_its_other_groups_and_only_with_the_mark(tmp_path: Path) -> None:
    code = "import os, time; os.fork() or os.setpgid(0, 0); os.write(1, b'ready\\n'); time.sleep(60)"
    command = [sys.executable, "-c", code]
    environ = {**os.environ, JOB_MARK: str(tmp_path)}
    with subprocess.Popen(command, env=environ, start_new_session=True, stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        assert [leader.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        found = session_pids(leader.pid, f"{JOB_MARK}={tmp_path}")
        assert leader.pid in found
        assert len(found) == 2
        assert session_pids(leader.pid, f"{JOB_MARK}=other") == []
        assert kill_session(leader.pid, "NAME=other") == 0
        assert kill_session(leader.pid, f"{JOB_MARK}={tmp_path}") == 2
        assert kill_session(leader.pid, f"{JOB_MARK}={tmp_path}") == 0
    assert session_pids(leader.pid, f"{JOB_MARK}={tmp_path}") == []
