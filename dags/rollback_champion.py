"""NAME.rollback: restore the previous champion or the base model, manually, through the code and ledger of promotions.

Run or cleared again it moves nothing. `forward` undoes a rollback; `from_version` guards against moving another
champion than the one you saw.
"""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import ACTOR, default_args, location, projects
from pipelines.dispatch.operators import links, run_params
from pipelines.dispatch.operators.notifications import callbacks

for project in projects():
    with DAG(
        dag_id=f"{project.name}.rollback",
        schedule=None,
        is_paused_upon_creation=False,
        default_args=default_args(project),
        max_active_runs=1,
        tags=["plumbline", project.name],
        params={
            "reason": run_params.line("Reason; kept in the ledger."),
            "from_version": run_params.optional_version(
                "The champion to replace; if another version is champion, nothing moves."
            ),
            "to_version": run_params.optional_version("Version to restore, which was once promoted."),
            "forward": run_params.flag("Restore the version that a rollback replaced."),
            "to_base": run_params.flag("Restore the base model instead of the previous version."),
        },
        doc_md=__doc__,
    ) as dag:

        @task(retries=0, **callbacks(project, location(project)))
        def rollback(path: str, actor: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
            from pipelines.stages import champion

            given = params or {}
            names = ("reason", "from_version", "to_version", "to_base", "forward")
            return champion.rollback(path, actor=actor, **{name: given[name] for name in names})

        links.add_links(rollback(location(project), ACTOR), links.ModelVersionLink())
    globals()[dag.dag_id] = dag
