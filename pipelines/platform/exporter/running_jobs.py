"""Jobs that run now, on any engine, from their MLflow runs."""

from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.tracking.open_runs import list_open_runs

_LABELS = ("project", "kind", "job_id")
_STARTED = Metric(
    "plumbline_job_started_timestamp_seconds", "Time at which the MLflow run of a running job was opened.", _LABELS
)
_SPEED = Metric(
    "plumbline_job_items_per_second",
    "Last reported speed of a running job. The unit is pairs, or prompts for an online objective.",
    (*_LABELS, "unit"),
)
_PER_SECOND = "_per_second"
METRICS = (_STARTED, _SPEED)


def read(reading: Reading) -> list[Sample]:
    """List the open runs of jobs. Their number is bounded by what runs at once, so labels with job ids stay few."""
    name = reading.workspace.project.name
    samples = []
    for job in list_open_runs(reading.settings, name):
        if not job.job_id:
            continue
        labels = (name, job.kind, job.job_id)
        samples.append(_STARTED.of(job.started_at.timestamp(), *labels))
        samples += [
            _SPEED.of(value, *labels, metric.removesuffix(_PER_SECOND))
            for metric, value in sorted(job.metrics.items())
            if metric.endswith(_PER_SECOND)
        ]
    return samples
