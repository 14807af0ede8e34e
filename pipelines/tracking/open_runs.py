"""Runs that are open: attempts of a job that begin and end, and runs that a crash left RUNNING."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pipelines.contracts.jobs import ComputeTotal, JobRecord
from pipelines.settings import Settings
from pipelines.tracking.run_stream import RunStream
from pipelines.tracking.runs import ENGINE_TAG, HOST_TAG, JOB_ID_TAG, KIND_TAG, PARENT_TAG, connect

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

ATTEMPTS_TAG = "plumbline.attempts"
CLOSED_TAG = "plumbline.closed_because"
"""Reason why another process closed a run that a crash left open."""
MAXIMUM_OPEN_RUNS = 1000


@dataclass(frozen=True)
class OpenRun:
    """A run with the status RUNNING. Texts are empty where the run has no such tag."""

    run_id: str
    name: str
    started_at: datetime
    job_id: str
    kind: str
    engine: str
    host: str
    dag_id: str
    dag_run_id: str
    parent_id: str
    metrics: Mapping[str, float]
    """Last value of each metric."""


def list_open_runs(settings: Settings, project: str) -> list[OpenRun]:
    """List the RUNNING runs of a project, the oldest first, at most 1,000."""
    with connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(project)
        if experiment is None:
            return []
        found = client.search_runs(
            [experiment.experiment_id],
            "attributes.status = 'RUNNING'",
            max_results=MAXIMUM_OPEN_RUNS,
            order_by=["attributes.start_time ASC"],
        )
    return [_open_run(run.info, run.data) for run in found]


def _open_run(info: Any, data: Any) -> OpenRun:
    tags = data.tags
    return OpenRun(
        run_id=info.run_id,
        name=info.run_name or info.run_id,
        started_at=datetime.fromtimestamp(info.start_time / 1000, UTC),
        job_id=tags.get(JOB_ID_TAG, ""),
        kind=tags.get(KIND_TAG, ""),
        engine=tags.get(ENGINE_TAG, ""),
        host=tags.get(HOST_TAG, ""),
        dag_id=tags.get("airflow.dag_id", ""),
        dag_run_id=tags.get("airflow.run_id", ""),
        parent_id=tags.get(PARENT_TAG, ""),
        metrics=dict(data.metrics),
    )


def close_lost_run(settings: Settings, run_id: str, status: RunStatus, reason: str) -> None:
    """Close a run in place of the process that should have done it, with the reason as a tag."""
    with connect(settings.tracking_uri) as client:
        client.set_tag(run_id, CLOSED_TAG, reason)
        client.set_terminated(run_id, status)


def finish_parent(settings: Settings, run_id: str) -> None:
    """Finish the run above a job's run, unless it is that of a DAG run, in which more jobs may follow."""
    with connect(settings.tracking_uri) as client:
        tags = client.get_run(run_id).data.tags
        if PARENT_TAG in tags and "airflow.run_id" not in tags:
            client.set_terminated(tags[PARENT_TAG], "FINISHED")


def reopen_run(settings: Settings, run_id: str) -> None:
    """Set a run back to RUNNING; nothing is left of the reason for which it was closed."""
    with connect(settings.tracking_uri) as client:
        client.update_run(run_id, status="RUNNING")
        if CLOSED_TAG in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, CLOSED_TAG)


def start_attempt(settings: Settings, run_id: str, attempt: int) -> None:
    """Set the run of a job to RUNNING and record the number of its attempts."""
    reopen_run(settings, run_id)
    with connect(settings.tracking_uri) as client:
        client.set_tag(run_id, ATTEMPTS_TAG, str(attempt))


def log_cost(settings: Settings, run_id: str, record: JobRecord) -> None:
    """Log device-hours and cost of a job so far, one point for each attempt, and the cost's currency as a tag."""
    figures = {f"cost/{record.device}_hours": record.device_hours}
    if record.cost is not None and record.request.prices is not None:
        figures[f"cost/{record.request.prices.currency}"] = record.cost
    stream = RunStream(settings.tracking_uri, run_id)
    stream.log_metrics(record.attempts, time.time(), figures)
    stream.flush()


def show_project_total(settings: Settings, project: str, total: ComputeTotal) -> None:
    """Set the compute time and the cost of a project as tags of its experiment."""
    with connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(project)
        for name, value in cost_tags(total).items():
            client.set_experiment_tag(experiment.experiment_id, name, value)


def cost_tags(total: ComputeTotal) -> dict[str, str]:
    """Return compute time and cost as tags; without those that are zero."""
    figures = {"gpu_hours": total.gpu_hours, "cpu_hours": total.cpu_hours, **total.cost}
    return {f"cost.{name}": f"{value:.4f}" for name, value in figures.items() if value}
