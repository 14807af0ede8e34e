"""NAME.ingest: every shard of every source becomes a validated batch; accepted pairs update the asset `pairs`."""

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
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
            from airflow.sdk.configuration import conf

            from pipelines.stages import pairs

            return pairs.group_shards(path, most=conf.getint("core", "max_map_length"))

        @task(map_index_template="{{ shard_name }}")
        def ingest_shard(path: str, group: dict[str, Any], run_key: str) -> dict[str, Any]:
            from pipelines.dispatch.operators.shards import name_group, report_counts
            from pipelines.stages import pairs

            name_group(group)
            counts = pairs.read_group(path, group, run_key=run_key)
            return report_counts(counts, pairs.failure_message(counts))

        @task(outlets=[pairs_asset(project)], trigger_rule="all_done")
        def announce_pairs(path: str, groups: list[dict[str, Any]], *, outlet_events: Any = None) -> dict[str, Any]:
            from pipelines.dispatch.operators.shards import counts_of
            from pipelines.stages import pairs, values

            counts = pairs.announced_pairs(path, groups, counts_of("ingest_shard", groups))
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
        reports = ingest_shard.partial(path=location(project), run_key=RUN_KEY).expand(group=shards)
        links.add_links(reports, links.DataDocsLink())
        # A run with a bad shard announces the others and still fails.
        reports >> [announce_pairs(location(project), shards), EmptyOperator(task_id="every_shard_read")]
    globals()[dag.dag_id] = dag
