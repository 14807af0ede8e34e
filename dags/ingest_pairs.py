"""NAME.ingest: every shard of every source becomes a validated batch; accepted pairs update the asset `pairs`."""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import RUN_KEY, location, pairs_asset, projects_with_jobs, usual
from pipelines.dispatch.operators import links
from pipelines.dispatch.operators.schedules import clock
from pipelines.dispatch.operators.train_job import TrainJobOperator
from pipelines.stages.pairs import drawn_sources

for project, job in projects_with_jobs():
    with DAG(
        dag_id=f"{project.name}.ingest",
        schedule=clock(project, project.schedule.ingest),
        **usual(project),
        doc_md=__doc__,
    ) as dag:

        @task
        def list_shards(path: str) -> list[dict[str, Any]]:
            from pipelines.stages import pairs

            return pairs.list_shards(path)

        @task(map_index_template="{{ shard_name }}")
        def ingest_shard(path: str, shard: dict[str, Any], run_key: str) -> dict[str, Any]:
            from airflow.sdk import get_current_context

            from pipelines.stages import pairs

            get_current_context()["shard_name"] = shard["uri"].rsplit("/", 1)[-1]  # type: ignore[typeddict-unknown-key]
            return pairs.validate(path, pairs.ingest(path, shard), run_key=run_key)

        @task(outlets=[pairs_asset(project)])
        def announce_pairs(path: str, reports: list[dict[str, Any]], *, outlet_events: Any = None) -> dict[str, int]:
            from pipelines.stages import pairs, values

            counts = pairs.count_pairs(list(reports))
            outlet_events[pairs_asset(values.read_project(path))].extra = counts
            return counts

        shards = list_shards(location(project))
        for source in drawn_sources(project):
            draw = TrainJobOperator(
                task_id=f"draw_{source}",
                **job("draw_pairs"),
                given={"source": source},
            )
            draw >> shards
        reports = ingest_shard.partial(path=location(project), run_key=RUN_KEY).expand(shard=shards)
        links.add_links(reports, links.DataDocsLink())
        announce_pairs(location(project), reports)
    globals()[dag.dag_id] = dag
