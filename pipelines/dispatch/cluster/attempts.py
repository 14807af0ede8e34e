"""Attempts of a job in the object store, which control plane and cluster share; they share no disk.

attempts/JOB_ID/latest.json        number of an attempt; a later one may exist
attempts/JOB_ID/00001/attempt.json the request, created once: who creates it owns the number
attempts/JOB_ID/00001/state.json   the latest state the driver wrote
attempts/JOB_ID/00001/cancel       exists once a cancel of the attempt was requested
attempts/JOB_ID/00001/log/000000   the log, in pieces of LOG_PIECE_BYTES; only the last piece is written again
attempts/JOB_ID/work/              unfinished work, see kept_work.py
"""

import hashlib
import json
import time
from typing import Annotated

from pydantic import Field

from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobRequest, JobStatus, LogChunk
from pipelines.store.storage import Store

LOG_PIECE_BYTES = 256 * 1024
_ATTEMPT_STEP = 10**12
"""A cursor is this times the attempt, plus the number of bytes read of its log."""


def cluster_name(store_uri: str, job_id: str) -> str:
    """Return the name of a job on a cluster, which may serve several stores: job ids are unique in a store only."""
    return f"{job_id}-{hashlib.sha256(store_uri.encode()).hexdigest()[:8]}"


def recorded_jobs(store: Store) -> list[str]:
    """List the ids of the jobs that have an attempt, sorted."""
    folder = store.uri("attempts")
    names = (uri.removeprefix(f"{folder}/").split("/") for uri in store.list_uris(folder))
    return sorted({parts[0] for parts in names if parts[-1] == "attempt.json"})


class Attempt(Record):
    """Everything that the driver needs to run an attempt."""

    request: JobRequest
    grace_seconds: Annotated[float, Field(gt=0)]
    """Time between SIGTERM and SIGKILL."""
    resize_seconds: Annotated[float, Field(gt=0)]
    """Time between two looks for nodes on which the job could grow."""
    version: str
    """Version of plumbline that made the attempt."""
    created_at: float
    """Time in unix seconds, from the clock of the control plane."""


class AttemptState(Record):
    """The state of an attempt as its driver saw it last."""

    status: JobStatus
    written_at: float
    """Time in unix seconds, from the clock of the cluster."""


class AttemptRecords:
    """Reads and writes the attempts of one job. Attempts are numbered from 1; 0 stands for none."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self.job_id = job_id

    @property
    def work_uri(self) -> str:
        """Folder of the job's unfinished work."""
        return self._store.uri("attempts", self.job_id, "work")

    def latest(self) -> int:
        """Return the number of the last attempt."""
        hint = self._store.uri("attempts", self.job_id, "latest.json")
        number = int(json.loads(self._store.read_bytes(hint))) if self._store.exists(hint) else 0
        while self.exists(number + 1):
            number += 1
        return number

    def exists(self, number: int) -> bool:
        """Return True when an attempt of this number was recorded."""
        return self._store.exists(self._uri(number, "attempt.json"))

    def create(self, number: int, attempt: Attempt) -> bool:
        """Record an attempt; False when another process has created this number first."""
        created = self._store.create_bytes(self._uri(number, "attempt.json"), attempt.model_dump_json().encode())
        if created:
            self._store.write_bytes(self._store.uri("attempts", self.job_id, "latest.json"), str(number).encode())
        return created

    def read(self, number: int) -> Attempt:
        """Read an attempt; ValueError when there is none."""
        return Attempt.model_validate_json(self._store.read_bytes(self._uri(number, "attempt.json")))

    def write_status(self, number: int, status: JobStatus) -> None:
        """Replace the state of an attempt."""
        state = AttemptState(status=status, written_at=time.time())
        self._store.write_bytes(self._uri(number, "state.json"), state.model_dump_json().encode())

    def read_state(self, number: int) -> AttemptState | None:
        """Read the state that the driver wrote last; None before its first."""
        uri = self._uri(number, "state.json")
        return AttemptState.model_validate_json(self._store.read_bytes(uri)) if self._store.exists(uri) else None

    def request_cancel(self, number: int) -> None:
        """Request the end of an attempt."""
        self._store.write_bytes(self._uri(number, "cancel"), b"")

    def is_cancelled(self, number: int) -> bool:
        """Return True when the end of an attempt was requested."""
        return self._store.exists(self._uri(number, "cancel"))

    def log_uri(self, number: int) -> str:
        """Return the folder of an attempt's log."""
        return self._uri(number, "log")

    def write_log(self, number: int, piece: int, data: bytes) -> None:
        """Replace one piece of a log."""
        self._store.write_bytes(self._log_piece(number, piece), data)

    def read_log(self, cursor: int, *, finished: bool) -> LogChunk:
        """Return the next lines of all attempts' logs; a last line without its end only when its attempt is over."""
        attempt, offset = divmod(max(cursor, _ATTEMPT_STEP), _ATTEMPT_STEP)
        data = self._log_bytes(attempt, offset)
        over = finished or self.exists(attempt + 1)
        whole = data.rfind(b"\n") + 1
        if over and not whole:
            whole = len(data)
        if whole:
            lines = data[:whole].decode("utf-8", errors="replace").removesuffix("\n").split("\n")
            shown = tuple(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
            return LogChunk(lines=shown, cursor=attempt * _ATTEMPT_STEP + offset + whole)
        if not data and self.exists(attempt + 1):
            return LogChunk(lines=(), cursor=(attempt + 1) * _ATTEMPT_STEP)
        return LogChunk(lines=(), cursor=cursor)

    def _log_bytes(self, number: int, offset: int) -> bytes:
        """Return the bytes after `offset` up to the end of the next piece, in which a line that began may end."""
        first, start = divmod(offset, LOG_PIECE_BYTES)
        data = self._read_piece(number, first)
        if len(data) == LOG_PIECE_BYTES:
            data += self._read_piece(number, first + 1)
        return data[start:]

    def _read_piece(self, number: int, piece: int) -> bytes:
        uri = self._log_piece(number, piece)
        return self._store.read_bytes(uri) if self._store.exists(uri) else b""

    def _log_piece(self, number: int, piece: int) -> str:
        return self._uri(number, "log", f"{piece:06d}")

    def _uri(self, number: int, *parts: str) -> str:
        return self._store.uri("attempts", self.job_id, f"{number:05d}", *parts)


class LogWriter:
    """Appends to the log of an attempt."""

    def __init__(self, records: AttemptRecords, number: int) -> None:
        self._records = records
        self._number = number
        self._piece = 0
        self._open = b""

    def append(self, data: bytes) -> None:
        """Write bytes after those before; complete pieces are not written again."""
        self._open += data
        while len(self._open) >= LOG_PIECE_BYTES:
            self._records.write_log(self._number, self._piece, self._open[:LOG_PIECE_BYTES])
            self._piece, self._open = self._piece + 1, self._open[LOG_PIECE_BYTES:]
        if self._open:
            self._records.write_log(self._number, self._piece, self._open)
