"""NAME.rollback: by hand; the previous champion, or the base model, back, through the code and ledger of promotions."""

from typing import Any

from airflow.sdk import DAG, Param, task

from dags.assets import ACTOR, default_args, location, projects
from pipelines.dispatch.operators.notifications import callbacks

for project in projects():
    with DAG(
        dag_id=f"{project.name}.rollback",
        schedule=None,
        default_args=default_args(project),
        max_active_runs=1,
        tags=["plumbline", project.name],
        params={
            "reason": Param("", type="string", minLength=3, description="Why; kept in the ledger."),
            "to_base": Param(False, type="boolean", description="Back to the base model, not to the version before."),
        },
        doc_md=__doc__,
    ) as dag:

        @task(retries=0, **callbacks(project, location(project)))
        def rollback(path: str, actor: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
            from pipelines import champion_stages

            given = params or {}
            return champion_stages.rollback(path, actor=actor, reason=given["reason"], to_base=given["to_base"])

        rollback(location(project), ACTOR)
    globals()[dag.dag_id] = dag
