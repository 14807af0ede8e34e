"""Find processes of a job or a server through /proc: by start time, since pids are recycled, and by a mark.

The mark is an environment variable that every process of a job inherits. Training launchers start each rank in a
separate session, so neither a process group nor a parent leads to a rank whose launcher was killed; the mark does.
"""

import os
import pwd
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from alignment.contracts.values import Record

JOB_MARK = "PLUMBLINE_JOB_DIR"
_PROC = Path("/proc")


class ProcessRecord(Record):
    """A process as it was started; a later process with the same pid has other ticks or another boot."""

    pid: int
    started_ticks: int
    """Start time from /proc, clock ticks since boot; 0 when the process was gone before it could be read."""
    boot_id: str


def this_host() -> str:
    """Return the name of this host, for messages about what is missing on it."""
    return os.uname().nodename


def record_of(pid: int) -> ProcessRecord:
    """Return the record by which `is_alive` identifies a process."""
    return ProcessRecord(pid=pid, started_ticks=_start_ticks(pid) or 0, boot_id=_boot_id())


def is_alive(record: ProcessRecord | None) -> bool:
    """Return True when the recorded process still runs; a zombie does not."""
    if record is None or record.boot_id != _boot_id():
        return False
    return record.started_ticks != 0 and _start_ticks(record.pid) == record.started_ticks


def _start_ticks(pid: int) -> int | None:
    """Return the start time of a live process in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _marked_pids(job_dir: Path, spared: int = 0) -> list[int]:
    """Return live processes that carry the mark of this job folder, except the caller and the one that is spared."""
    mark = f"{JOB_MARK}={job_dir}".encode()
    pids = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), spared):
            continue
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and _start_ticks(int(entry.name)) is not None:
                pids.append(int(entry.name))
    return pids


def kill_marked(job_dir: Path, *, spared: int = 0) -> int:
    """Send SIGKILL to every process of the job until none is left; return the number found at first.

    The process with the pid `spared` is left alone.
    Raises TimeoutError when one survives, as a process stuck in the kernel can.
    """
    return _kill(partial(_marked_pids, job_dir, spared), f"of {job_dir}")


def kill_session(leader_pid: int, mark: str) -> int:
    """Send SIGKILL to every process of `session_pids` until none is left; return the number found at first.

    Raises TimeoutError when one survives.
    """
    return _kill(partial(session_pids, leader_pid, mark), f"of session {leader_pid}")


def _kill(find: Callable[[], list[int]], whose: str, timeout_seconds: float = 10.0) -> int:
    deadline = time.monotonic() + timeout_seconds
    first = pids = find()
    while pids:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Processes {pids} {whose} survived SIGKILL. Inspect them before you start others.")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        pids = find()
    return len(first)


def session_pids(leader_pid: int, mark: str) -> list[int]:
    """Return live processes of the session that `leader_pid` leads or led, with this NAME=VALUE in the environment.

    A task of Airflow leads a separate group within the session of its scheduler. The mark leaves out an unrelated
    session whose leader has inherited the pid.
    """
    pids = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                in_session = int(fields[3]) == leader_pid and fields[0] != "Z"
                if in_session and mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
    return pids


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that `pid` leads; do nothing when it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _boot_id() -> str:
    with suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def shell_user() -> str:
    """Return the log-in name of this process's user, or the number where the host has no name for it.

    LOGNAME and USER, which getpass would read first, are ignored: any user may set them to any name.
    """
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
