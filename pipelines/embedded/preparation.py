"""What a fresh Airflow needs before our DAGs can run."""

import time

from pipelines.embedded import services
from pipelines.embedded.rest import AirflowApi
from pipelines.embedded.services import Platform
from pipelines.project import Project, list_projects, load_project
from pipelines.settings import Settings

PARSE_TIMEOUT_SECONDS = 180
GPU_POOL = "gpu"
DAGS = ("ingest", "train", "promote", "calibrate", "monitor", "reconcile", "rollback")
"""What every project has."""


def prepare_airflow(settings: Settings, platform: Platform) -> AirflowApi:
    """Log in, make the pool, and wait until the DAGs of every project are parsed.

    Raises RuntimeError with Airflow's import errors when a DAG file does not parse.
    """
    api = AirflowApi(platform.airflow.url, user="admin", password=services.admin_password(settings))
    api.ensure_pool(GPU_POOL, slots=1)
    wanted = {dag_id for path in list_projects(settings.projects_dir) for dag_id in expected_dags(load_project(path))}
    deadline = time.monotonic() + PARSE_TIMEOUT_SECONDS
    while not wanted <= set(api.dag_ids()):
        errors = api.import_errors()
        if errors or time.monotonic() > deadline:
            raise RuntimeError("Airflow could not parse the DAGs: " + ("\n".join(errors) or "no answer in time."))
        time.sleep(1)
    return api


def expected_dags(project: Project) -> set[str]:
    """Ids of the DAGs that `dags/` makes of a project."""
    names = (*DAGS, "reward") if project.rewards else DAGS
    return {f"{project.name}.{name}" for name in names}
