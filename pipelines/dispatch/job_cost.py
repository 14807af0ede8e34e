"""Cost of a job: wall time of its processes, added up over attempts in its folder, then kept in the store."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobRecord, JobRequest
from pipelines.dispatch.job_folder import JobFolder, read_model, write_atomically
from pipelines.records.jobs import save_record
from pipelines.store.storage import Store

COST_FILE = "effort.json"


class _JobCost(Record):
    """Contents of effort.json in a job's work folder."""

    device: Literal["cpu", "gpu"] = "cpu"
    attempts: int = 0
    seconds: float = 0.0


@contextmanager
def measured(folder: JobFolder, *, cpu: bool) -> Iterator[None]:
    """Add the time spent inside to the job's cost, however the block ends, except by SIGKILL."""
    started = time.monotonic()
    try:
        yield
    finally:
        before = _read_cost(folder)
        cost = _JobCost(
            device="cpu" if cpu else "gpu",
            attempts=before.attempts + 1,
            seconds=before.seconds + time.monotonic() - started,
        )
        write_atomically(folder.work_dir / COST_FILE, cost.model_dump_json())


def _read_cost(folder: JobFolder) -> _JobCost:
    """Read the cost of the attempts so far."""
    return read_model(folder.work_dir / COST_FILE, _JobCost) or _JobCost()


def keep_record(folder: JobFolder, request: JobRequest, store: Store) -> None:
    """Write request and cost to the store, where the gate's report finds them."""
    cost = _read_cost(folder)
    untracked = request.model_copy(update={"tracking": None})
    save_record(store, JobRecord(request=untracked, **cost.model_dump()))
