"""The inputs of jobs on this host: one copy of each, at most `PLUMBLINE_CACHE_GIB` of them together.

    <state_dir>/inputs/DIGEST          a file or a folder
    <state_dir>/inputs/.use/DIGEST     its lock: held by every process that uses it; its time is that of the last use

A process that leases an input keeps it until the process ends, however it ends. To make room, inputs that no process
uses are deleted, the one used longest ago first.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.settings import Settings

GIB = 1024**3
_leases: dict[Path, int] = {}
"""Open locks of this process by path."""


@dataclass(frozen=True)
class _Entry:
    """An input in the cache."""

    path: Path
    num_bytes: int
    """Size on the disk or, while a process fetches it, the size it will have."""
    used_at: float
    in_use: bool


class InputCache:
    """The cache of this host."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.state_dir / "inputs"
        self.limit_bytes = None if settings.cache_gib is None else int(settings.cache_gib * GIB)
        self._locks = self.folder / ".use"

    def lease(self, name: str, num_bytes: int) -> Path:
        """Return the path of an input of this size, which no process deletes until this one ends.

        ValueError when the input alone exceeds the limit, OSError (no space) when jobs that run now leave too little.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        path, lock = self.folder / name, self._locks / name
        with _room(self._locks / ".room"):
            if lock not in _leases:
                _leases[lock] = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
            if self.limit_bytes is not None:
                self._make_room(path, num_bytes, self.limit_bytes)
            lock.write_text(str(num_bytes), encoding="utf-8")
            fcntl.flock(_leases[lock], fcntl.LOCK_SH)
        return path

    def num_bytes(self) -> int:
        """Return the size of the inputs on the disk."""
        return sum(_size(path) for path in self._paths())

    def discard(self, names: Collection[str]) -> None:
        """Delete inputs that no process uses, as far as they are here."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with _room(self._locks / ".room"):
            for path in self._paths():
                if path.name in names and not self._entry(path).in_use:
                    self._delete(path)

    def _paths(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if not path.name.startswith(".")] if self.folder.is_dir() else []

    def _make_room(self, wanted: Path, num_bytes: int, limit: int) -> None:
        if num_bytes > limit:
            raise ValueError(
                f"Input {wanted.name} has {num_bytes / GIB:.3f} GiB, the cache under {self.folder} may have"
                f" {limit / GIB:.3f} GiB. Raise PLUMBLINE_CACHE_GIB on this host."
            )
        others = [self._entry(path) for path in self._paths() if path != wanted]
        too_many = sum(entry.num_bytes for entry in others) + num_bytes - limit
        for entry in sorted(others, key=lambda entry: entry.used_at):
            if too_many > 0 and not entry.in_use:
                self._delete(entry.path)
                too_many -= entry.num_bytes
        if too_many > 0:
            held = sum(entry.num_bytes for entry in others if entry.in_use)
            raise OSError(
                errno.ENOSPC,
                f"Input {wanted.name} has {num_bytes / GIB:.3f} GiB, but running jobs use {held / GIB:.3f} of the"
                f" {limit / GIB:.3f} GiB of the cache under {self.folder}. Wait for them, or raise PLUMBLINE_CACHE_GIB",
            )

    def _entry(self, path: Path) -> _Entry:
        lock = self._locks / path.name
        if not lock.is_file():
            return _Entry(path, _size(path), path.stat().st_mtime, in_use=False)
        in_use, size = lock in _leases or not _is_free(lock), _size(path)
        reserved = int(lock.read_text(encoding="utf-8") or 0) if in_use else 0
        return _Entry(path, max(size, reserved), lock.stat().st_mtime, in_use=in_use)

    def _delete(self, path: Path) -> None:
        gone = self.folder / f".{path.name}.{uuid.uuid4().hex}.partial"
        path.rename(gone)
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()


@contextmanager
def _room(lock: Path) -> Iterator[None]:
    """Hold the right to delete inputs and to begin using one."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_free(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.lstat().st_size for file in files if not file.is_dir())
