"""NAME.reconcile: compare alias, ledger and tags. It finishes an interrupted change, restores the alias if the project
allows it, and fails otherwise, so that a person checks.
"""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import ACTOR, default_args, location, projects
from pipelines.dispatch.operators.notifications import callbacks

for project in projects():
    with DAG(
        dag_id=f"{project.name}.reconcile",
        schedule=project.schedule.reconcile,
        is_paused_upon_creation=False,
        default_args=default_args(project),
        max_active_runs=1,
        tags=["plumbline", project.name],
        doc_md=__doc__,
    ) as dag:

        @task(**callbacks(project, location(project)))
        def reconcile(path: str, actor: str) -> dict[str, Any]:
            from pipelines.stages import champion

            return champion.reconcile(path, actor=actor)

        # The task before has sent the notification; this one shows the failure in Airflow.
        @task(retries=0, on_failure_callback=None)
        def sound_the_alarm(found: dict[str, Any]) -> None:
            if found["state"] == "alarm":
                raise RuntimeError(found["message"])

        sound_the_alarm(reconcile(location(project), ACTOR))
    globals()[dag.dag_id] = dag
