"""One rank of a job on its node: a supervised worker, its log and progress to the board, its unfinished work to the
store.

It knows nothing of Ray: the driver gives it a way to the board and the facts of its place.
"""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Protocol

from alignment.contracts.jobs import Progress
from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords, cluster_name
from pipelines.dispatch.cluster.board import Order
from pipelines.dispatch.cluster.kept_work import KeptWork
from pipelines.dispatch.environment import worker_environment
from pipelines.dispatch.job_folder import JobFolder, Launch
from pipelines.host import kill_marked
from pipelines.settings import Settings
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

SUPERVISOR = (sys.executable, "-m", "pipelines.dispatch.supervisor")
POLL_SECONDS = 0.3
SAVE_EVERY_SECONDS = 2.0
READ_BYTES = 1 << 20


class Place(Record):
    """The place of a rank in its group."""

    group: str
    """Name of the group, the same for all its ranks and for no other group."""
    rank: int
    world: int
    """Number of ranks in the group."""
    master_address: str
    master_port: int

    def environment(self) -> dict[str, str]:
        """Return the variables by which torch joins the ranks. Each rank sees the GPU that is reserved for it alone.

        A rank alone does not join a group, but its number tells the worker to start one process, not those of the
        placement.
        """
        if self.world == 1:
            return {"RANK": "0"}
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }


class BoardAccess(Protocol):
    """The part of the board that a rank uses."""

    def report(self, group: str, rank: int, world: int, log: bytes, progress: Progress | None) -> Order: ...
    def end(self, rank: int, status: JobStatus) -> None: ...
    def paused(self, group: str, rank: int) -> None: ...


def _rank_folder(settings: Settings, job_id: str, rank: int) -> JobFolder:
    """Return the folder of a rank on its node."""
    return JobFolder(settings.state_dir / "ranks" / f"{cluster_name(settings.store_uri, job_id)}-{rank:05d}")


def free_port() -> int:
    """Return a TCP port of this host that nothing listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


class RankRun:
    """One rank from its start to its end."""

    def __init__(
        self,
        attempt: Attempt,
        number: int,
        place: Place,
        *,
        settings: Settings,
        store: Store,
        board: BoardAccess,
        worker: tuple[str, ...],
    ) -> None:
        self._attempt = attempt
        self._number = number
        self._place = place
        self._settings = settings
        self._folder = _rank_folder(settings, attempt.request.job_id, place.rank)
        records = AttemptRecords(store, attempt.request.job_id)
        self._kept = KeptWork(
            store,
            records.work_uri,
            self._folder.work_dir,
            rank=place.rank,
            is_superseded=lambda: records.exists(number + 1),
        )
        self._board = board
        self._worker = worker
        self._read = 0
        self._stopping = False
        self._pausing = False
        self._saved_at = 0.0

    def run(self, is_preempted: Callable[[], bool]) -> None:
        """Run until the job ends or, after a pause, until the group is ended from outside.

        `is_preempted` returns True once a node of this group is going to be taken away.
        """
        self._prepare()
        with self._start() as process:
            try:
                self._attend(process, is_preempted)
            finally:
                kill_marked(self._folder.path)
        status = self._final_status()
        self._save(complete=True)
        self._report(to_end=True)
        if self._pausing and status.state == "preempted":
            self._wait_for_the_next_group(status)
        else:
            self._board.end(self._place.rank, status)

    def _attend(self, process: "subprocess.Popen[bytes]", is_preempted: Callable[[], bool]) -> None:
        """Pass news and orders on and save the work, until the supervisor ends."""
        while process.poll() is None:
            order = self._report()
            if order or is_preempted():
                self._obey(order or "pause", process)
            if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
                self._save()
                self._saved_at = time.monotonic()
            time.sleep(POLL_SECONDS)

    def _save(self, *, complete: bool = False) -> None:
        """Save the work to the store, and report meanwhile: a rank that is silent is taken for dead."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            saving = pool.submit(self._kept.save, complete=complete)
            while not wait([saving], timeout=POLL_SECONDS).done:
                self._report()
            saving.result()

    def _prepare(self) -> None:
        """End what an earlier group left on this node, and fetch the unfinished work."""
        kill_marked(self._folder.path)
        self._folder.work_dir.mkdir(parents=True, exist_ok=True)
        logs = self._folder.path.glob("attempt-*.log")
        for stale in (self._folder.cancel_path, self._folder.path / "status.json", *logs):
            stale.unlink(missing_ok=True)
        self._kept.restore()

    def _start(self) -> "subprocess.Popen[bytes]":
        request = self._attempt.request
        launch = Launch(
            attempt=self._number,
            command=(*self._worker, str(self._folder.path)),
            timeout_seconds=request.placement.timeout_seconds,
            grace_seconds=self._attempt.grace_seconds,
        )
        self._folder.write_request(request)
        self._folder.write_launch(launch)
        with (self._folder.path / "supervisor.log").open("ab") as output:
            return subprocess.Popen(
                [*SUPERVISOR, str(self._folder.path), "--attached"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=worker_environment(self._settings, self._folder.path) | self._place.environment(),
                cwd=self._folder.path,
                start_new_session=True,
            )

    def _obey(self, order: Order, process: "subprocess.Popen[bytes]") -> None:
        """Pass an order on once; SIGTERM lets the job save its work within the grace period."""
        if order == "kill":
            kill_marked(self._folder.path)
            process.kill()
        elif order == "cancel":
            self._folder.cancel_path.touch()
        if not self._stopping:
            log.info("Rank %d: %s", self._place.rank, order)
            self._stopping = True
            self._pausing = order == "pause"
            process.terminate()
        if order != "pause":
            self._pausing = False

    def _report(self, *, to_end: bool = False) -> Order:
        """Send new log lines and the progress to the board; return its order."""
        log_path = self._folder.log_path(self._number)
        lines, self._read = _new_lines(log_path, self._read, to_end=to_end)
        place = self._place
        return self._board.report(place.group, place.rank, place.world, lines, self._folder.read_progress())

    def _final_status(self) -> JobStatus:
        """Return the status that the supervisor wrote last; a killed supervisor writes none."""
        status = self._folder.read_status()
        if status is not None and status.state not in ("pending", "running"):
            return status
        message = "The supervisor of the worker was killed (out of memory, or manually)."
        return JobStatus(state="failed", attempt=self._number, failure_kind="crashed", message=message)

    def _wait_for_the_next_group(self, status: JobStatus) -> None:
        """Hold the place until the group is ended from outside, or the attempt ends."""
        self._board.paused(self._place.group, self._place.rank)
        while True:
            order = self._report()
            if order == "cancel":
                status = JobStatus(state="cancelled", attempt=self._number, message="Cancelled on request.")
            if order not in ("", "pause"):
                self._board.end(self._place.rank, status)
                return
            time.sleep(POLL_SECONDS)


def _new_lines(path: Path, offset: int, *, to_end: bool) -> tuple[bytes, int]:
    """Return complete lines of a file after an offset, and the offset after them; `to_end` also the last, incomplete
    one.
    """
    if not path.is_file():
        return b"", offset
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read() if to_end else stream.read(READ_BYTES)
    whole = len(data) if to_end or len(data) == READ_BYTES else data.rfind(b"\n") + 1
    return data[:whole], offset + whole
