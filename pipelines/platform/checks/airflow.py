"""Checks of a project's DAGs and of the pool that their jobs need, by Airflow's REST API."""

from pipelines.platform import dag_states
from pipelines.platform.checks.result import Check, check
from pipelines.workspace import Workspace

CREATED_UNPAUSED = ("monitor", "reconcile", "rollback", "approve")
"""DAGs that monitor and restore the champion, and that ask people about it."""


def airflow_checks(workspace: Workspace) -> list[Check]:
    """Check paused and missing DAGs, and the pool."""
    pool_fix = "Run `plumbline setup-airflow`; see Pool in docs/operations.md."
    return [
        check(
            "dags", lambda: _dags(workspace), "Unpause these DAGs in Airflow; see Paused DAGs in docs/operations.md."
        ),
        check("pool", lambda: _pool(workspace), pool_fix),
    ]


def _dags(workspace: Workspace) -> str:
    """List paused DAGs; ValueError when one monitors or restores the champion, or when a DAG is missing in Airflow."""
    project = workspace.project
    states = dag_states.read_dag_states(workspace)
    if not states.reachable:
        if dag_states.is_configured(workspace.settings):
            raise ValueError(states.problem)
        return f"{states.problem} Paused DAGs are unknown."
    if states.missing_dags:
        raise ValueError(
            f"Airflow does not know {', '.join(states.missing_dags)}. Put the project file into the folder"
            f" PLUMBLINE_PROJECTS_DIR of Airflow at {states.url}, and check the import errors there."
        )
    paused = states.paused_dags or ()
    found = f"{states.url}: " + (f"paused are {', '.join(paused)}" if paused else "no DAG of this project is paused")
    guards = [dag_id for dag_id in paused if dag_id.removeprefix(f"{project.name}.") in CREATED_UNPAUSED]
    if guards:
        verb = "is" if len(guards) == 1 else "are"
        raise ValueError(
            f"{found}. While {', '.join(guards)} {verb} paused, the champion is not monitored or restored."
        )
    return found


def _pool(workspace: Workspace) -> str:
    """Return the state of Airflow's pool; ValueError if a job of the project would never start.

    An Airflow that cannot be asked is reported by the check of the DAGs.
    """
    states = dag_states.read_dag_states(workspace)
    if states.pool_problem:
        raise ValueError(states.pool_problem)
    return "large enough for every job" if states.reachable else "not known, as Airflow is not reachable"
