"""NAME.calibrate: after new pairs and after each reward training, check every judge against held-out human labels.

The records decide when a judge's vote expires; `plumbline judges` lists them.
"""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import RUN_KEY, judges_asset, location, pairs_asset, projects_with_jobs, usual
from pipelines.dispatch.operators.results import result_of
from pipelines.dispatch.operators.train_job import TrainJobOperator

for project, job in projects_with_jobs():
    with DAG(
        dag_id=f"{project.name}.calibrate",
        schedule=(pairs_asset(project) | judges_asset(project)) if project.rewards else [pairs_asset(project)],
        **usual(project),
        doc_md=__doc__,
    ) as dag:

        @task
        def build_snapshot(path: str) -> dict[str, Any]:
            from pipelines.stages import pairs, pool

            pool.check_pool(path)
            return pairs.snapshot(path)

        @task
        def record(path: str, report: dict[str, Any], run_key: str) -> list[dict[str, Any]]:
            from pipelines.stages import judges

            return judges.record_calibration(path, result_of("calibrate", report), run_key=run_key)

        calibrate = TrainJobOperator(
            task_id="calibrate",
            **job("calibrate"),
            given={"snapshot": build_snapshot(location(project))},
        )
        record(location(project), calibrate.output, RUN_KEY)
    globals()[dag.dag_id] = dag
