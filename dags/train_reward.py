"""NAME.reward: for each reward, collect its sources' pairs, train a preference head, evaluate and register it as a
judge; updates the asset `judges`.

Only projects with `[[rewards]]` have this DAG. It runs on new pairs, or by `schedule.reward` where the project sets it.
"""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import RUN_KEY, judges_asset, location, pairs_asset, projects_with_jobs, usual
from pipelines.dispatch.operators import links, run_params
from pipelines.dispatch.operators.results import result_of
from pipelines.dispatch.operators.schedules import clock
from pipelines.dispatch.operators.train_job import MAP_NAME, TrainJobOperator

for project, job in projects_with_jobs():
    if not project.rewards:
        continue
    with DAG(
        dag_id=f"{project.name}.reward",
        schedule=clock(project, project.schedule.reward) or [pairs_asset(project)],
        **usual(project),
        params={"generation": run_params.number("Raise to run the same specs again.")},
        doc_md=__doc__,
    ) as dag:

        @task
        def build_snapshots(path: str) -> list[dict[str, Any]]:
            from pipelines.stages import pool, training

            pool.check_pool(path)
            return training.plan_rewards(path)

        @task(outlets=[judges_asset(project)], map_index_template=links.OWN_NAME)
        def register(path: str, plan: dict[str, Any], run_key: str) -> dict[str, Any]:
            from pipelines.stages import judges

            judge = judges.register_reward(path, plan, result_of("train_reward"), run_key=run_key)
            return links.named(judge, judge["name"])

        plans = build_snapshots(location(project))
        train = TrainJobOperator.partial(
            task_id="train_reward",
            map_index_template=MAP_NAME,
            **job("train_reward"),
        ).expand(given=plans)
        train >> register.partial(path=location(project), run_key=RUN_KEY).expand(plan=plans)
    globals()[dag.dag_id] = dag
