"""The board of an attempt: ranks report to it and find orders on it; the driver reads it. It runs as one actor.

Ranks come in groups. Ray Train ends a group and starts another when nodes come, go or fail.
"""

import time
from typing import Literal

from alignment.contracts.jobs import Progress
from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobStatus

Order = Literal["", "pause", "preempt", "cancel", "kill"]
"""An order to a rank: save and wait for the next group, save and end, end as cancelled, or end at once."""


SILENT_SECONDS = 15.0
"""A rank that has not reported for this long is gone, with its node: ranks report several times a second."""


class News(Record):
    """Everything that came to the board since the driver's last look, and the state of the attempt."""

    log: bytes
    progress: Progress | None
    started: bool
    """True once a rank runs."""
    cause: JobStatus | None
    """The first status of a rank that is not success: the cause of all later ones."""
    finished: bool
    """True once rank 0 has succeeded."""


class Board:
    """See the module. Every method returns at once."""

    def __init__(self) -> None:
        self._log: list[bytes] = []
        self._progress: Progress | None = None
        self._group = ""
        self._world = 0
        self._paused: set[int] = set()
        self._seen: dict[int, float] = {}
        """Time of the last report of each rank of the group."""
        self._pausing = ""
        """The group that has to pause."""
        self._order: Order = ""
        self._cause: JobStatus | None = None
        self._causing_rank = -1
        self._finished = False

    def report(self, group: str, rank: int, world: int, log: bytes, progress: Progress | None) -> Order:
        """Take a rank's new log lines and progress; return the order that holds for it."""
        if group != self._group:
            self._group, self._world, self._paused = group, world, set()
            self._seen = dict.fromkeys(range(world), time.monotonic())
        self._seen[rank] = time.monotonic()
        self._log.append(_marked(log, rank))
        if rank == 0 and progress is not None:
            self._progress = progress
        if self._order:
            return self._order
        if self._finished and rank != 0:
            return "kill"
        if self._cause is not None and rank != self._causing_rank:
            return "preempt" if self._cause.state == "preempted" else "kill"
        return "pause" if group == self._pausing else ""

    def end(self, rank: int, status: JobStatus) -> None:
        """Take the final status of a rank."""
        if status.state == "succeeded":
            self._finished = self._finished or rank == 0
        elif self._cause is None:
            self._cause, self._causing_rank = status, rank

    def pause(self) -> None:
        """Order the present group to save its work and wait."""
        self._pausing = self._group

    def paused(self, group: str, rank: int) -> None:
        """Take the news that a rank's work is saved."""
        if group == self._group:
            self._paused.add(rank)

    def is_paused(self) -> bool:
        """Return True when every rank of the group has saved its work or is gone, or there is no group to wait for."""
        if not self._group or self._cause is not None or self._finished:
            return True
        alive = {rank for rank, seen in self._seen.items() if time.monotonic() - seen < SILENT_SECONDS}
        return alive <= self._paused

    def give(self, order: Order) -> None:
        """Give an order to all ranks, for good."""
        self._order = order

    def take(self) -> News:
        """Return the news, and forget the log that is in them."""
        log, self._log = b"".join(self._log), []
        return News(
            log=log,
            progress=self._progress,
            started=bool(self._group),
            cause=self._cause,
            finished=self._finished,
        )


def _marked(log: bytes, rank: int) -> bytes:
    """Put the rank before each of its lines; those of rank 0 stay as they are."""
    if not log or rank == 0:
        return log
    return b"".join(b"[rank %d] %s" % (rank, line) for line in log.splitlines(keepends=True))
