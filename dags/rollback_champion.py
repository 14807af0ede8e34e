"""NAME.rollback: by hand; the previous champion back, through the same code and ledger as a promotion."""

from typing import Any

from airflow.sdk import DAG, Param, task

from dags.assets import default_args, location, projects

for project in projects():
    with DAG(
        dag_id=f"{project.name}.rollback",
        schedule=None,
        default_args=default_args(project),
        max_active_runs=1,
        tags=["plumbline", project.name],
        params={"reason": Param("", type="string", minLength=3, description="Why; kept in the ledger.")},
        doc_md=__doc__,
    ) as dag:

        @task(retries=0)
        def rollback(path: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
            from pipelines import stages

            return stages.rollback(path, actor="airflow", reason=(params or {})["reason"])

        rollback(location(project))
    globals()[dag.dag_id] = dag
