"""What a job takes: wall time of its processes, added up over attempts in its folder, in the store at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from alignment.contracts.values import Record
from pipelines.contracts.jobs import JobRecord, JobRequest
from pipelines.dispatch.job_folder import JobFolder, read_model, write_atomically
from pipelines.records.jobs import save_record
from pipelines.store.storage import Store

EFFORT_FILE = "effort.json"


class Effort(Record):
    """effort.json of a job's work folder."""

    device: Literal["cpu", "gpu"] = "cpu"
    attempts: int = 0
    seconds: float = 0.0


@contextmanager
def measured(folder: JobFolder, *, cpu: bool) -> Iterator[None]:
    """Add the time spent inside to the job's effort, however it ends, short of a kill."""
    started = time.monotonic()
    try:
        yield
    finally:
        before = read_effort(folder)
        effort = Effort(
            device="cpu" if cpu else "gpu",
            attempts=before.attempts + 1,
            seconds=before.seconds + time.monotonic() - started,
        )
        write_atomically(folder.work_dir / EFFORT_FILE, effort.model_dump_json())


def read_effort(folder: JobFolder) -> Effort:
    """What the attempts so far took."""
    return read_model(folder.work_dir / EFFORT_FILE, Effort) or Effort()


def keep_record(folder: JobFolder, request: JobRequest, store: Store) -> None:
    """Put request and effort into the store, where the gate's report finds them."""
    effort = read_effort(folder)
    asked = request.model_copy(update={"tracking": None})
    save_record(store, JobRecord(request=asked, **effort.model_dump()))
