"""What a fresh Airflow needs before our DAGs can run."""

import time

from pipelines.embedded import services
from pipelines.embedded.rest import AirflowApi
from pipelines.embedded.services import Platform
from pipelines.project import list_projects
from pipelines.settings import Settings

PARSE_TIMEOUT_SECONDS = 180
GPU_POOL = "gpu"


def prepare_airflow(settings: Settings, platform: Platform) -> AirflowApi:
    """Log in, make the pool, and wait until the DAGs of every project are parsed.

    Raises RuntimeError with Airflow's import errors when a DAG file does not parse.
    """
    api = AirflowApi(platform.airflow.url, user="admin", password=services.admin_password(settings))
    api.ensure_pool(GPU_POOL, slots=1)
    names = [path.stem for path in list_projects(settings.projects_dir)]
    wanted = {f"{name}.{dag}" for name in names for dag in ("ingest", "train", "promote", "reconcile", "rollback")}
    deadline = time.monotonic() + PARSE_TIMEOUT_SECONDS
    while not wanted <= set(api.dag_ids()):
        errors = api.import_errors()
        if errors or time.monotonic() > deadline:
            raise RuntimeError("Airflow could not parse the DAGs: " + ("\n".join(errors) or "no answer in time."))
        time.sleep(1)
    return api
