"""`plumbline ingest`, `validate` and `snapshot` on the pairs of the shapes project, in processes that can be killed."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.host import session_pids

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "projects/shapes.toml"
RUN_SECONDS = 300
GONE_SECONDS = 60
"""Longest time in which processes end after the one that started them was killed."""
DEFAULT_SEED = 20261129
DIGESTED = ("raw", "snapshots")
"""Folders of the store whose contents depend on the pairs alone; a data report has the time."""


def seed() -> int:
    return int(os.environ.get("PLUMBLINE_FAULT_SEED", DEFAULT_SEED))


def shares(number: int) -> list[float]:
    """Moments of kills, as shares of the time that an undisturbed run works; one in each equal part of it."""
    rng = random.Random(seed())
    return [(part + rng.random()) / number for part in rng.sample(range(number), number)]


@dataclass(frozen=True)
class Installation:
    """A state folder, and a folder for what processes put into `/tmp`."""

    folder: Path
    store_parent: str = "state"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def store_dir(self) -> Path:
        return self.folder / self.store_parent / "store"

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PLUMBLINE_", "MLFLOW_"))}
        return kept | {
            "PLUMBLINE_STATE_DIR": str(self.state_dir),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.folder / "tmp"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, command: str = "snapshot", *, before: Sequence[str] = (), **more: Any) -> "subprocess.Popen[str]":
        """Start a command as the leader of a session; `before` is a command that starts it."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [*before, sys.executable, "-m", "pipelines.commands.cli", command, str(PROJECT), "--json"],
            env=self.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )

    def run(self, command: str = "snapshot") -> Any:
        """Run a command to its end and return what it printed."""
        return ended_well(self.start(command))

    def processes(self, leader: int) -> list[int]:
        """Return the live processes of a command."""
        return session_pids(leader, f"TMPDIR={self.folder / 'tmp'}")

    def names(self) -> frozenset[str]:
        """Return the names of everything below the state folder; a command has begun its work when they change."""
        found = os.walk(self.state_dir)
        return frozenset(str(Path(parent, name)) for parent, folders, files in found for name in (*folders, *files))

    def digests(self) -> dict[str, str]:
        """Return the content digest of every finished folder, and the sha256 of each of its files."""
        found = {}
        for manifest in (path for name in DIGESTED for path in (self.store_dir / name).rglob("manifest.json")):
            value = json.loads(manifest.read_text())
            folder = manifest.parent.relative_to(self.store_dir).as_posix()
            found[folder] = value["content_digest"]
            found |= {f"{folder}/{name}": entry["sha256"] for name, entry in value["files"].items()}
            files = {path.relative_to(manifest.parent).as_posix(): sha256_of(path) for path in files_beside(manifest)}
            assert files == {name: entry["sha256"] for name, entry in value["files"].items()}
        return found

    def left_over(self) -> list[str]:
        """Return what a process that ended should not have left: scratch, partial files, temporary files."""
        scratch, temporary = self.state_dir / "scratch", self.folder / "tmp"
        found = [path for path in self.folder.rglob("*") if path.name.endswith(".partial")]
        found += [path for folder in (scratch, temporary) if folder.is_dir() for path in folder.iterdir()]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def unfinished(self) -> list[str]:
        """Return folders named by a digest that have files and no manifest."""
        folders = {path.parent for name in DIGESTED for path in (self.store_dir / name).rglob("*") if path.is_file()}
        return sorted(str(own) for own in folders if len(own.name) == 64 and not (own / "manifest.json").is_file())

    def kill_at(self, share: float, working_seconds: float) -> float:
        """Start a command, kill its main process at this share of its work, and wait for the others to end.

        A command that was faster than that begins again and is killed earlier. Returns the share at last.
        """
        while not self._is_killed_at(share * working_seconds):
            shutil.rmtree(self.folder)
            share *= 0.8
        return share

    def _is_killed_at(self, seconds: float) -> bool:
        before = self.names()
        process = self.start()
        try:
            wait_until(lambda: self.names() != before or process.poll() is not None, RUN_SECONDS)
            time.sleep(seconds)
            process.kill()
            _, message = process.communicate(timeout=RUN_SECONDS)
            assert process.returncode in (0, -signal.SIGKILL), message
            wait_until(lambda: not self.processes(process.pid), GONE_SECONDS)
        finally:
            end(process)
        return process.returncode == -signal.SIGKILL


def ended_well(process: "subprocess.Popen[str]") -> Any:
    """Wait for a command, and return what it printed."""
    try:
        out, err = process.communicate(timeout=RUN_SECONDS)
        assert process.returncode == 0, err[-4000:]
        return json.loads(out)
    finally:
        end(process)


def end(process: "subprocess.Popen[str]") -> None:
    """Kill a command if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=GONE_SECONDS)


def wait_until(done: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.005)


def files_beside(manifest: Path) -> list[Path]:
    """Return every file of a folder but its manifest."""
    return [path for path in manifest.parent.rglob("*") if path.is_file() and path != manifest]


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undisturbed(folder: Path) -> tuple[Installation, float]:
    """Run a command without a kill, and return the time that it worked, from its first write to its end."""
    installation = Installation(folder)
    process = installation.start()
    wait_until(lambda: installation.names() or process.poll() is not None, RUN_SECONDS)
    begun = time.monotonic()
    ended_well(process)
    assert installation.left_over() == []
    return installation, time.monotonic() - begun
