"""Assets that link the DAGs, the default arguments, and the projects for which DAGs are made."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow import settings as airflow_settings
from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable

from pipelines.dispatch.operators.notifications import failure_callbacks
from pipelines.project.file import Project, load_projects
from pipelines.project.schedules import ONLY_AIRFLOW
from pipelines.settings import load_settings

log = logging.getLogger(__name__)

GPU_POOL = "gpu"
RUN_KEY = "{{ dag_run.dag_id }}/{{ run_id }}"
"""Key shared by the MLflow runs of one DAG run."""
TRIGGERED_BY = "{{ dag_run.triggering_user_name or '' }}"
"""The person who started a DAG run; empty for a schedule or an asset."""
ACTOR = "{{ dag_run.triggering_user_name or 'airflow' }}"
"""User that moves the champion, for the ledger."""


def projects() -> list[Project]:
    """Load the projects of this installation; a broken file is logged and skipped. `check_projects` raises for it."""
    loaded, problems = load_projects(load_settings().projects_dir)
    for problem in problems:
        log.error("A project has no DAGs because its file cannot be loaded. %s", problem)
    return loaded


def check_projects() -> None:
    """Raise ValueError with one line for each project file that cannot be loaded."""
    problems = load_projects(load_settings().projects_dir)[1]
    if problems:
        raise ValueError("\n".join(problems))


def pairs_asset(project: Project) -> Asset:
    """New accepted pairs."""
    return Asset(name=f"{project.name}.pairs", uri=f"plumbline://{project.name}/pairs", group="plumbline")


def candidate_asset(project: Project) -> Asset:
    """A newly registered candidate version."""
    return Asset(name=f"{project.name}.candidate", uri=f"plumbline://{project.name}/candidate", group="plumbline")


def judges_asset(project: Project) -> Asset:
    """A newly trained judge."""
    return Asset(name=f"{project.name}.judges", uri=f"plumbline://{project.name}/judges", group="plumbline")


def retrain_asset(project: Project) -> Asset:
    """A request by the monitor for a new candidate."""
    return Asset(name=f"{project.name}.retrain", uri=f"plumbline://{project.name}/retrain", group="plumbline")


def train_starts(project: Project) -> AssetAny | AssetOrTimeSchedule:
    """Schedule of training: new pairs, the monitor's request and, with `schedule.train`, the clock."""
    data = AssetAny(pairs_asset(project), retrain_asset(project))
    if project.schedule.train is None:
        return data
    zone = project.schedule.timezone or airflow_settings.TIMEZONE
    clock = CronTriggerTimetable(project.schedule.train, timezone=zone)
    return AssetOrTimeSchedule(assets=data, timetable=clock)


def clock(project: Project, schedule: str | None) -> str | CronTriggerTimetable | None:
    """Return a schedule in the project's time zone; unchanged where it has none, or the schedule names no time."""
    if schedule is None or not project.schedule.timezone or schedule in ONLY_AIRFLOW:
        return schedule
    return CronTriggerTimetable(schedule, timezone=project.schedule.timezone)


def usual(project: Project) -> dict[str, Any]:
    """Arguments of the DAGs that bring in pairs, train and judge."""
    return {
        "default_args": default_args(project),
        "max_active_runs": 1,
        "tags": ["plumbline", project.name],
        "is_paused_upon_creation": project.schedule.paused,
    }


def default_args(project: Project) -> dict[str, Any]:
    """Owner and retries of every task, and the notification sent when it fails for good."""
    on_failure = failure_callbacks(project, location(project))
    return {"owner": project.schedule.owner, "retries": 2, "retry_delay": timedelta(seconds=15), **on_failure}


def location(project: Project) -> str:
    """Return the project file as a plain string, which is what a task carries."""
    return str(Path(project.path))
