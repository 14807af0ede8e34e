"""Assets that link the DAGs, the default arguments, and the projects for which DAGs are made."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule

from pipelines.dispatch.operators.notifications import failure_callbacks
from pipelines.dispatch.operators.schedules import assets_or_clock
from pipelines.dispatch.operators.train_job import job_arguments
from pipelines.project.file import Project, load_projects
from pipelines.project.slots import host_slots
from pipelines.settings import load_settings

log = logging.getLogger(__name__)

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


def projects_with_jobs() -> Iterator[tuple[Project, Callable[[str], dict[str, Any]]]]:
    """Yield each project with a function from a kind of job to the arguments that every operator of that kind has."""
    loaded = projects()
    for project in loaded:
        yield project, partial(job_arguments, project, location(project), host_slots(loaded))


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
    return assets_or_clock(project, data, project.schedule.train)


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
