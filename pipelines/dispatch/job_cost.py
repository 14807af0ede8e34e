"""Cost of a job: wall time of its processes, added up over attempts in its folder, then kept in the store."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from alignment.contracts.jobs import PACE_FILE, Device, TrainingPace
from alignment.contracts.values import Record
from pipelines.contracts.jobs import ComputeEntry, ComputeTotal, JobRecord, JobRequest
from pipelines.dispatch.job_folder import JobFolder, read_model, write_atomically
from pipelines.records.compute import account
from pipelines.records.jobs import save_record
from pipelines.records.series import Series
from pipelines.store.storage import Store

COST_FILE = "effort.json"
SAVE_EVERY_SECONDS = 10.0


class _JobCost(Record):
    """Contents of effort.json in a job's work folder."""

    device: Device = "cpu"
    attempts: int = 0
    seconds: float = 0.0
    charged_seconds: float = 0.0
    """Part of `seconds` that is in the project's account."""
    charging: int = 0
    """Number of the entry in the account that is being written; 0 when none is."""


@contextmanager
def measured(folder: JobFolder, *, cpu: bool) -> Iterator[None]:
    """Add an attempt and the time spent inside to the job's cost; a process killed inside loses at most 10 seconds."""
    before, started, stop = _read_cost(folder), time.monotonic(), threading.Event()

    def save() -> None:
        update = {
            "device": "cpu" if cpu else "gpu",
            "attempts": before.attempts + 1,
            "seconds": before.seconds + time.monotonic() - started,
        }
        _write_cost(folder, before.model_copy(update=update))

    def save_often() -> None:
        while not stop.wait(SAVE_EVERY_SECONDS):
            with suppress(OSError):  # a full disk is reported by the job, or by the last save
                save()

    save()
    saver = threading.Thread(target=save_often, name="job-cost", daemon=True)
    saver.start()
    try:
        yield
    finally:
        stop.set()
        saver.join()
        save()


def keep_record(folder: JobFolder, request: JobRequest, store: Store) -> None:
    """Write request, cost and pace to the store, where reports and plans find them; the cost also to the account of
    the project.
    """
    charge(folder, request, store)
    pace = read_model(folder.out_dir / PACE_FILE, TrainingPace)
    save_record(store, cost_record(folder, request).model_copy(update={"pace": pace}))


def cost_record(folder: JobFolder, request: JobRequest) -> JobRecord:
    """Return the record of a job's attempts so far."""
    cost = _read_cost(folder)
    return _record(request, cost, cost.seconds)


def charge(folder: JobFolder, request: JobRequest, store: Store) -> None:
    """Add the time that is not in the account of the project yet.

    Each second is counted once: before an entry is written, its number is noted in the job's folder, and an attempt
    that finds such a note looks up if the entry is there.
    """
    entries = account(store, request.project)
    cost = _read_cost(folder)
    if cost.charging:
        cost = cost.model_copy(update={"charging": 0, "charged_seconds": _charged_seconds(entries, request, cost)})
    open_seconds = cost.seconds - cost.charged_seconds
    if open_seconds <= 0:
        return

    def propose(number: int, last: ComputeEntry | None) -> ComputeEntry:
        _write_cost(folder, cost.model_copy(update={"charging": number}))
        total = (last.total if last else ComputeTotal()).plus(_record(request, cost, open_seconds))
        return ComputeEntry(job_id=request.job_id, attempt=cost.attempts, job_seconds=cost.seconds, total=total)

    entries.append(propose)
    _write_cost(folder, cost.model_copy(update={"charged_seconds": cost.seconds}))


def _charged_seconds(entries: Series[ComputeEntry], request: JobRequest, cost: _JobCost) -> float:
    """Return the seconds of a job that are in the account, when it is unknown if its last entry was written."""
    if cost.charging not in entries.numbers():
        return cost.charged_seconds
    entry = entries.read(cost.charging)
    return entry.job_seconds if entry.job_id == request.job_id else cost.charged_seconds


def _record(request: JobRequest, cost: _JobCost, seconds: float) -> JobRecord:
    untracked = request.model_copy(update={"tracking": None})
    return JobRecord(request=untracked, device=cost.device, attempts=cost.attempts, seconds=seconds)


def _read_cost(folder: JobFolder) -> _JobCost:
    """Read the cost of the attempts so far."""
    return read_model(folder.work_dir / COST_FILE, _JobCost) or _JobCost()


def _write_cost(folder: JobFolder, cost: _JobCost) -> None:
    write_atomically(folder.work_dir / COST_FILE, cost.model_dump_json())
