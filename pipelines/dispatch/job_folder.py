"""The folder of one job on its host, shared by engine, supervisor and worker.

request.json     the JobRequest of the latest attempt
launch.json      the command that the supervisor runs
supervisor.json  the supervisor's process
status.json      the latest JobStatus the supervisor wrote, replaced atomically
failure.json     the reason why the worker stopped (alignment.contracts.values.JobFailure), if it could write one
cancel           exists once a cancel of the attempt was requested
attempt-N.log    all output of attempt N
work/            kept across attempts: spec.json, placement.json, inputs/, out/ (with checkpoints/)
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from alignment.contracts.jobs import FAILURE_FILE, PROGRESS_FILE, JobFailure, Progress
from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobRequest, JobStatus, LogChunk
from pipelines.host import ProcessRecord

Model = TypeVar("Model", bound=BaseModel)

MAX_CHUNK_BYTES = 256 * 1024
START_TIMEOUT_SECONDS = 60


class Launch(Record):
    """The command that a supervisor runs, and its time limit."""

    attempt: int
    command: tuple[str, ...]
    timeout_seconds: float
    grace_seconds: float
    """Time between SIGTERM and SIGKILL."""


class JobFolder:
    """Typed access to the files of a job folder; readers return None for a file that is missing or half-written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work_dir = path / "work"
        self.inputs_dir = self.work_dir / "inputs"
        self.out_dir = self.work_dir / "out"
        self.cancel_path = path / "cancel"

    def log_path(self, attempt: int) -> Path:
        """Return the path of one attempt's log."""
        return self.path / f"attempt-{attempt}.log"

    def read_request(self) -> JobRequest | None:
        """Read the latest request."""
        return read_model(self.path / "request.json", JobRequest)

    def write_request(self, request: JobRequest) -> None:
        """Replace the request."""
        write_atomically(self.path / "request.json", request.model_dump_json(indent=1))

    def submitted_at(self) -> datetime | None:
        """Return the time at which the latest request was written; None when there is none."""
        with suppress(OSError):
            return datetime.fromtimestamp((self.path / "request.json").stat().st_mtime, UTC)
        return None

    def read_launch(self) -> Launch | None:
        """Read the command that the supervisor runs."""
        return read_model(self.path / "launch.json", Launch)

    def write_launch(self, launch: Launch) -> None:
        """Replace the command that the supervisor runs."""
        write_atomically(self.path / "launch.json", launch.model_dump_json(indent=1))

    def read_supervisor(self) -> ProcessRecord | None:
        """Read the record of the supervisor's process."""
        return read_model(self.path / "supervisor.json", ProcessRecord)

    def write_supervisor(self, record: ProcessRecord) -> None:
        """Record the supervisor's process."""
        write_atomically(self.path / "supervisor.json", record.model_dump_json())

    def forget_supervisor(self) -> None:
        """Delete the record of the last attempt's supervisor, before a new attempt."""
        (self.path / "supervisor.json").unlink(missing_ok=True)

    def is_fresh(self) -> bool:
        """Return True when the status is so recent that a supervisor may still be starting."""
        with suppress(OSError):
            return time.time() - (self.path / "status.json").stat().st_mtime < START_TIMEOUT_SECONDS
        return False

    def read_status(self) -> JobStatus | None:
        """Read the latest status that was written."""
        return read_model(self.path / "status.json", JobStatus)

    def write_status(self, status: JobStatus) -> None:
        """Replace the status."""
        write_atomically(self.path / "status.json", status.model_dump_json(indent=1))

    def read_failure(self) -> JobFailure | None:
        """Read the reason why the worker stopped."""
        return read_model(self.path / FAILURE_FILE, JobFailure)

    def write_failure(self, failure: JobFailure) -> None:
        """Write the reason why the worker stops."""
        write_atomically(self.path / FAILURE_FILE, failure.model_dump_json())

    def read_progress(self) -> Progress | None:
        """Read the progress that the job reported."""
        return read_model(self.out_dir / PROGRESS_FILE, Progress)

    def read_logs(self, cursor: int, finished: bool) -> LogChunk:
        """Return lines from byte `cursor` of all attempts' logs, concatenated; an attempt's log never shrinks.

        A last line without its newline is held back until it is complete, unless its attempt is over. A progress bar
        that rewrites its line with carriage returns shows as its last state.
        """
        paths = self._log_paths()
        start = 0
        for index, path in enumerate(paths):
            size = path.stat().st_size
            if cursor < start + size:
                data = _read_range(path, cursor - start)
                over = finished or index + 1 < len(paths)
                whole = len(data) if over and cursor - start + len(data) >= size else _whole_lines(data)
                if whole or not over:
                    return LogChunk(lines=_split(data[:whole]), cursor=cursor + whole)
            start += size
        return LogChunk(lines=(), cursor=cursor)

    @contextmanager
    def locked(self, timeout_seconds: float = 120.0) -> Iterator[None]:
        """Hold the folder's lock; one process or thread at a time. TimeoutError when another keeps it too long."""
        self.path.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout_seconds
        with (self.path / "submit.lock").open("a") as lock:
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{self.path} has been locked by another submit for over {timeout_seconds:.0f} s."
                    )
                time.sleep(0.05)
            yield

    def _log_paths(self) -> list[Path]:
        paths: list[Path] = []
        while (path := self.log_path(len(paths) + 1)).is_file():
            paths.append(path)
        return paths


def read_model(path: Path, model: type[Model]) -> Model | None:
    """Read a model from a JSON file; None when the file is missing or is not that model."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read_range(path: Path, offset: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(MAX_CHUNK_BYTES)


def _whole_lines(data: bytes) -> int:
    """Return bytes up to the last newline; of a full chunk without one, everything, so that a reader never stalls."""
    end = data.rfind(b"\n") + 1
    return end if end or len(data) < MAX_CHUNK_BYTES else len(data)


def _split(data: bytes) -> tuple[str, ...]:
    lines = data.decode("utf-8", errors="replace").removesuffix("\n").split("\n") if data else []
    return tuple(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
