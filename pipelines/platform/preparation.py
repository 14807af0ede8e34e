"""Prepare a fresh Airflow for our DAGs."""

import logging
import time

from pipelines.platform import services
from pipelines.platform.rest import AirflowApi
from pipelines.platform.services import Platform
from pipelines.project.file import Project, load_projects
from pipelines.project.slots import GPU_POOL, largest_job
from pipelines.settings import Settings

log = logging.getLogger(__name__)

PARSE_TIMEOUT_SECONDS = 180
DAGS = ("ingest", "train", "promote", "calibrate", "monitor", "reconcile", "rollback")
"""DAGs of every project; `reward` and `approve` exist where the project file asks for them."""
CHECK_FILE = "check_projects.py"
"""The DAG file whose import error names the project files that cannot be loaded."""


def prepare_airflow(settings: Settings, platform: Platform) -> AirflowApi:
    """Log in, make the pool, and wait until the DAGs of every project that can be loaded are parsed.

    A project file that cannot be loaded is logged. Raises RuntimeError with Airflow's import errors when another DAG
    file does not parse.
    """
    api = AirflowApi(platform.airflow.url, user="admin", password=services.admin_password(settings))
    projects, problems = load_projects(settings.projects_dir)
    api.ensure_pool(GPU_POOL, slots=largest_job(projects).slots)
    for problem in problems:
        log.warning("A project has no DAGs because its file cannot be loaded. %s", problem)
    wanted = {dag_id for project in projects for dag_id in expected_dags(project)}
    deadline = time.monotonic() + PARSE_TIMEOUT_SECONDS
    while not wanted <= set(api.dag_ids()):
        errors = [error for error in api.import_errors() if CHECK_FILE not in error.partition(":")[0]]
        if errors or time.monotonic() > deadline:
            raise RuntimeError(
                "Airflow could not parse the DAGs: " + ("\n".join(errors) or "the DAGs were not parsed in time.")
            )
        time.sleep(1)
    return api


def expected_dags(project: Project) -> set[str]:
    """Return the ids of the DAGs that `dags/` makes of a project."""
    more = [
        name for name, wanted in (("reward", project.rewards), ("approve", project.approval.mode != "none")) if wanted
    ]
    return {f"{project.name}.{name}" for name in (*DAGS, *more)}
