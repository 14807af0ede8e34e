"""Finished jobs and their cost, from the records in the store."""

from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.records.jobs import read_record, record_uris

_LABELS = ("project", "kind", "device")
_FINISHED = Metric("plumbline_jobs_finished_total", "Finished jobs.", _LABELS)
_ATTEMPTS = Metric(
    "plumbline_job_attempts_total", "Attempts of finished jobs, retries after a preemption included.", _LABELS
)
_HOURS = Metric(
    "plumbline_job_device_hours_total", "Wall time of finished jobs in hours times the number of processes.", _LABELS
)
METRICS = (_FINISHED, _ATTEMPTS, _HOURS)


def read(reading: Reading) -> list[Sample]:
    """Add up the records of a project. A record is read once; later readings list the folder and read new ones.

    Nothing is returned before all records are read, so that a restart of the exporter does not look like new jobs.
    """
    store, name = reading.workspace.store, reading.workspace.project.name
    known: dict[str, tuple[tuple[str, str, str], int, float]] = reading.memory
    for uri in record_uris(store, name):
        if uri not in known:
            record = read_record(store, uri)
            known[uri] = ((name, record.request.kind, record.device), record.attempts, record.device_hours)
    totals: dict[tuple[str, str, str], tuple[int, int, float]] = {}
    for labels, attempts, hours in known.values():
        before = totals.get(labels, (0, 0, 0.0))
        totals[labels] = (before[0] + 1, before[1] + attempts, before[2] + hours)
    return [
        metric.of(value, *labels)
        for labels, values in sorted(totals.items())
        for metric, value in zip(METRICS, values, strict=True)
    ]
