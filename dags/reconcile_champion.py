"""NAME.reconcile: compare alias, ledger and tags. It finishes an interrupted change, restores the alias if the project
allows it, and fails otherwise, so that a person checks. It also cancels jobs that no task waits for any more and closes
MLflow runs that a crash left open.
"""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import ACTOR, default_args, location, projects
from pipelines.dispatch.operators.notifications import callbacks
from pipelines.dispatch.operators.schedules import clock

for project in projects():
    with DAG(
        dag_id=f"{project.name}.reconcile",
        schedule=clock(project, project.schedule.reconcile),
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

        @task
        def cancel_orphans(path: str) -> list[str]:
            from airflow.sdk import get_current_context

            from pipelines.dispatch.operators import orphans

            return orphans.cancel_orphans(path, get_current_context())

        # The task before has sent the notification; this one shows the failure in Airflow.
        @task(retries=0, on_failure_callback=None)
        def sound_the_alarm(found: dict[str, Any]) -> None:
            if found["state"] == "alarm":
                raise RuntimeError(found["message"])

        @task
        def close_lost_runs(path: str, ti: Any = None) -> list[dict[str, Any]]:
            from pipelines.stages import jobs

            return jobs.close_lost_runs(path, lambda dag_id, run_id: ti.get_dagrun_state(dag_id=dag_id, run_id=run_id))

        cancel_orphans(location(project))
        sound_the_alarm(reconcile(location(project), ACTOR))
        close_lost_runs(location(project))
    globals()[dag.dag_id] = dag
