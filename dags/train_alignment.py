"""NAME.train: snapshot, features, one training job per recipe, a registered candidate each; asset `candidate`."""

from typing import Any

from airflow.sdk import DAG, Param, task

from dags.assets import GPU_POOL, RUN_KEY, candidate_asset, default_args, location, pairs_asset, projects
from pipelines.dispatch.operators.train_job import TrainJobOperator, retry_policy

for project in projects():
    with DAG(
        dag_id=f"{project.name}.train",
        schedule=[pairs_asset(project)],
        default_args=default_args(project),
        max_active_runs=1,
        tags=["plumbline", project.name],
        params={"generation": Param(0, type="integer", minimum=0, description="Raise to run the same specs again.")},
        doc_md=__doc__,
    ) as dag:

        @task
        def build_snapshot(path: str) -> dict[str, Any]:
            from pipelines import stages

            return stages.snapshot(path)

        @task.short_circuit
        def enough_new_pairs(path: str, snapshot: dict[str, Any]) -> bool:
            from pipelines import stages

            return stages.enough_new_pairs(path, snapshot)

        @task(outlets=[candidate_asset(project)])
        def register(
            path: str, snapshot: dict[str, Any], result: dict[str, Any], run_key: str, *, outlet_events: Any = None
        ) -> dict[str, Any]:
            from pipelines import stages

            candidate = stages.register(path, snapshot, result, run_key=run_key)
            outlet_events[candidate_asset(stages.read_project(path))].extra = {"version": candidate["version"]}
            return candidate

        plain = build_snapshot(location(project))
        job: dict[str, Any] = {"project_path": location(project), "pool": GPU_POOL, "retry_policy": retry_policy()}
        snapshot: Any = plain
        if project.labelling:
            label = TrainJobOperator(task_id="label", stage="label", given={"snapshot": plain}, **job)
            snapshot = label.output
        encode = TrainJobOperator(
            task_id="encode",
            project_path=location(project),
            stage="encode",
            given={"snapshot": snapshot},
            pool=GPU_POOL,
            retry_policy=retry_policy(),
        )
        train = TrainJobOperator.partial(
            task_id="train", project_path=location(project), stage="train", pool=GPU_POOL, retry_policy=retry_policy()
        ).expand(
            given=[
                {"cache": encode.output, "snapshot": snapshot, "recipe": index} for index in range(len(project.train))
            ]
        )
        enough_new_pairs(location(project), plain) >> (label if project.labelling else encode)
        register.partial(path=location(project), snapshot=snapshot, run_key=RUN_KEY).expand(result=train.output)
    globals()[dag.dag_id] = dag
