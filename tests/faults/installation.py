"""An installation whose loop is turned by `plumbline demo`, as a user does, and whose processes can be killed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded_world import processes_of
from kills import JOBS, Kill

from pipelines.dispatch.job_folder import JobFolder

PLUMBLINE = Path(sys.executable).parent / "plumbline"
TURN_SECONDS = 1500
STOP_SECONDS = 180
REPLACEMENT_SECONDS = 45
"""A part of the platform that is away for longer is not restarted by itself; a user then starts the demo again."""
MOST_STARTS = 8
PARTS = {
    "scheduler": r"platform\.warm_scheduler",
    "triggerer": r"airflow triggerer",
    "api-server": r"airflow api.server",
    "dag-processor": r"airflow dag.processor",
    "mlflow": r"mlflow server",
}
"""A pattern of the command line of each part of the platform."""
_LINE = re.compile(r"(\w+\.\w+ \w+(?: \[\d+\])?)\s+(\w+)")


@dataclass
class Installation:
    """One state folder with its loop. `usual_seconds` are the durations of jobs in an undisturbed loop."""

    project: Path
    state_dir: Path
    usual_seconds: dict[str, float] = field(default_factory=dict)
    seen_seconds: dict[str, float] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    """Tasks that succeeded."""
    starts: int = 0
    _demo: "subprocess.Popen[str] | None" = None
    _first_seen: dict[str, float] = field(default_factory=dict)
    _due: dict[int, float] = field(default_factory=dict)
    _missing_since: dict[str, float] = field(default_factory=dict)
    _kills_of: Counter[str] = field(default_factory=Counter)
    _complete: bool = False
    """True once every part of the platform of this start has been seen."""

    @property
    def env(self) -> dict[str, str]:
        """Environment of a command on this installation. Airflow notices lost tasks sooner than by default."""
        dropped = {"PLUMBLINE_STORE_URI", "MLFLOW_TRACKING_URI", "AIRFLOW_HOME"}
        return {key: value for key, value in os.environ.items() if key not in dropped} | {
            "PLUMBLINE_STATE_DIR": str(self.state_dir),
            "PLUMBLINE_PROJECTS_DIR": str(self.project.parent),
            "OMP_NUM_THREADS": "1",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_DETECTION_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        }

    def command(self, *argv: str, timeout: float = 200, expect: int = 0) -> Any:
        """Run a command of Plumbline to its end; return the JSON that it printed."""
        done = subprocess.run(
            [str(PLUMBLINE), *argv], env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return json.loads(done.stdout)

    def turn(self, kills: list[Kill]) -> None:
        """Turn the loop to its end, through these kills; start the demo again where a user would."""
        deadline = time.monotonic() + TURN_SECONDS
        try:
            while not (self._ended() and self._demo is not None and self._demo.returncode == 0):
                assert time.monotonic() < deadline, self._report(kills)
                if self._ended() or self._incomplete():
                    self._start()
                processes = processes_of(self.state_dir)
                self._watch(processes)
                for kill in _next_of_each_target(kills):
                    self._replace_if_over(kill, processes)
                    if self._is_due(kill, processes):
                        kill.killed = self._kill(kill, processes_of(self.state_dir))
                        self._say(str(kill)) if kill.killed else None
                time.sleep(0.1)
        finally:
            self._stop()
        assert all(kill.killed for kill in kills), self._report(kills)
        assert self._complete, f"never seen: {sorted(self._missing_since)}"

    # --- the demo -----------------------------------------------------------------------------------------------------

    def _ended(self) -> bool:
        return self._demo is None or self._demo.poll() is not None

    def _start(self) -> None:
        """Start the demo, after stopping the one that lacks a part."""
        self._stop()
        self.starts += 1
        assert self.starts <= MOST_STARTS, self._report([])
        self._complete, self._missing_since = False, {}
        self._demo = subprocess.Popen(
            [str(PLUMBLINE), "demo", str(self.project)],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A suite that was started in the background (`&`) ignores Ctrl-C, and so would the demo.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        threading.Thread(target=self._read, args=(self._demo,), daemon=True).start()

    def _read(self, demo: "subprocess.Popen[str]") -> None:
        assert demo.stdout is not None
        for line in demo.stdout:
            self.output.append(line.rstrip())
            if (found := _LINE.match(line)) and found[2] == "success":
                self.done.add(found[1])

    def _stop(self) -> None:
        if self._demo is not None and self._demo.poll() is None:
            self._demo.send_signal(signal.SIGINT)
            try:
                self._demo.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._demo.kill()
                raise

    def _incomplete(self) -> bool:
        """Return True when a part of the platform is away for too long."""
        now = time.monotonic()
        return self._complete and any(now - since > REPLACEMENT_SECONDS for since in self._missing_since.values())

    def _watch(self, processes: dict[int, str]) -> None:
        """Note which jobs are there and which parts of the platform are missing."""
        now = time.monotonic()
        for kind in JOBS:
            if _ranks(processes, kind):
                self._first_seen.setdefault(kind, now)
                self.seen_seconds[kind] = now - self._first_seen[kind]
        missing = {name for name, pattern in PARTS.items() if not _matching(processes, pattern)}
        self._complete = self._complete or not missing
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}

    # --- kills --------------------------------------------------------------------------------------------------------

    def _is_due(self, kill: Kill, processes: dict[int, str]) -> bool:
        """Return True when the moment of a kill has come and its target is there."""
        now = time.monotonic()
        if kill.target in JOBS:
            ready = bool(_ranks(processes, kill.target))
            pause = kill.share * self.usual_seconds[kill.target] / 2 ** self._kills_of[kill.target]
        else:
            ready = self._complete and len(self.done) >= kill.after_tasks and self._is_there(kill, processes)
            pause = kill.pause_seconds
        if not ready:
            self._due.pop(id(kill), None)
            return False
        return now >= self._due.setdefault(id(kill), now + pause)

    def _replace_if_over(self, kill: Kill, processes: dict[int, str]) -> None:
        """Let a kill hit a task instead, when its job ended before its moment came."""
        ended = any(name.split()[1] == kill.target for name in self.done)
        if kill.target in JOBS and ended and not _ranks(processes, kill.target):
            self._say(f"{kill.target} is over; a task is killed instead")
            kill.target, kill.after_tasks = "between stages", 0

    def _is_there(self, kill: Kill, processes: dict[int, str]) -> bool:
        if kill.target == "between stages":
            return not any(_ranks(processes, kind) for kind in JOBS) and bool(_task_processes(processes))
        return kill.target == "database" or bool(_matching(processes, PARTS[kill.target]))

    def _kill(self, kill: Kill, processes: dict[int, str]) -> str:
        """Send SIGKILL to the processes of a kill; return what was killed, nothing if its target has just ended."""
        pids = self._victims(kill, processes)
        killed = []
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(pid)
        self._kills_of[kill.target] += bool(killed)
        names = sorted({processes.get(pid, "?").strip()[:60] for pid in killed})
        what = f"{kill.victim}, " if kill.target in JOBS else ""
        return f"{what}{len(killed)} processes ({'; '.join(names)})" if killed else ""

    def _victims(self, kill: Kill, processes: dict[int, str]) -> list[int]:
        if kill.target in JOBS:
            return _victims_of_job(processes, kill, self.state_dir)
        if kill.target == "between stages":
            running = _task_processes(processes)
            return running[int(kill.share * len(running)) :][:1]
        if kill.target == "database":
            return _holders(processes, self.state_dir / "airflow" / "airflow.db")
        return _matching(processes, PARTS[kill.target])

    def _say(self, text: str) -> None:
        self.output.append(f"    KILLED {text}")
        print(f"    {time.strftime('%H:%M:%S')} {text}", flush=True)

    def _report(self, kills: list[Kill]) -> str:
        planned = "\n".join(map(str, kills))
        tail = "\n".join(self.output[-80:])
        return f"{planned}\nstarts of the demo: {self.starts}\nmissing parts: {self._missing_since}\n{tail}"

    # --- job folders --------------------------------------------------------------------------------------------------

    def job_attempts(self) -> dict[str, int]:
        """Return the number of attempts of each job, by job id."""
        folders = [JobFolder(path) for path in sorted((self.state_dir / "jobs").iterdir()) if path.is_dir()]
        return {folder.path.name: len(folder._log_paths()) for folder in folders}


def _next_of_each_target(kills: list[Kill]) -> list[Kill]:
    """Return the kills to come, of each target the first."""
    found: dict[str, Kill] = {}
    for kill in kills:
        if not kill.killed:
            found.setdefault(kill.target, kill)
    return list(found.values())


def _matching(processes: dict[int, str], pattern: str) -> list[int]:
    return sorted(pid for pid, command in processes.items() if re.search(pattern, command))


def _ranks(processes: dict[int, str], kind: str) -> list[int]:
    """Return the processes that compute a job, without their launcher."""
    found = _matching(processes, rf"-m alignment\.jobs\.{kind}\b|alignment/jobs/{kind}\.py")
    return [pid for pid in found if "accelerate" not in processes[pid]]


def _victims_of_job(processes: dict[int, str], kill: Kill, state_dir: Path) -> list[int]:
    ranks = _ranks(processes, kill.target)
    if not ranks or kill.victim == "all ranks":
        return ranks
    if kill.victim == "a rank":
        return ranks[:1]
    [job_dir] = (state_dir / "jobs").glob(f"*-{kill.target}-*")
    own = {pid: command for pid, command in processes.items() if _marked(pid, job_dir)}
    if kill.victim == "everything, as with the host":
        supervisors = _matching(processes, rf"dispatch\.supervisor {re.escape(str(job_dir))}")
        return sorted({*supervisors, *own})
    return _matching(processes, rf"dispatch\.{kill.victim.removeprefix('the ')} {re.escape(str(job_dir))}")


def _marked(pid: int, job_dir: Path) -> bool:
    try:
        return f"PLUMBLINE_JOB_DIR={job_dir}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _task_processes(processes: dict[int, str]) -> list[int]:
    """Return the processes that execute a task of Airflow: those of the tasks, and those that watch over them."""
    return _matching(processes, r"airflow worker -- (?!LocalExecutor: <idle>)")


def _holders(processes: dict[int, str], path: Path) -> list[int]:
    """Return the processes that have a database file open."""
    found = []
    for pid in processes:
        try:
            opened = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
        if str(path) in opened:
            found.append(pid)
    return sorted(found)
