"""Stage that the DAGs begin with: is Airflow's pool large enough for the jobs that follow?"""

from pipelines.settings import load_settings
from pipelines.stages.values import read_project
from pipelines.workspace import Workspace


def check_pool(path: str) -> None:
    """Raise ValueError if the pool is missing or too small, as Airflow would let the tasks wait without a word."""
    from pipelines.platform import dag_states

    dag_states.check_pool(Workspace(read_project(path), load_settings()))
