"""NAME.train: snapshot, features, one training per recipe, a registered candidate for each recipe or for their soup.
A recipe that fails blocks the registration of all. Fix or remove it: finished weights are found by digest.
"""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import RUN_KEY, TRIGGERED_BY, candidate_asset, location, projects_with_jobs, train_starts, usual
from pipelines.dispatch.operators import links, run_params, starts
from pipelines.dispatch.operators.results import result_of
from pipelines.dispatch.operators.train_job import MAP_NAME, TrainJobOperator

for project, job in projects_with_jobs():
    with DAG(
        dag_id=f"{project.name}.train",
        schedule=train_starts(project),
        **usual(project),
        params={"generation": run_params.number("Raise to run the same specs again.")},
        doc_md=__doc__,
    ) as dag:

        @task
        def build_snapshot(path: str, run_key: str = "") -> dict[str, Any]:
            from pipelines.stages import pairs, pool

            pool.check_pool(path)
            return pairs.snapshot(path, run_key=run_key)

        @task.short_circuit
        def enough_new_pairs(
            path: str, data: Any, run_key: str, dag_run: Any = None, triggering_asset_events: Any = None
        ) -> bool:
            from pipelines.stages import monitor

            asked = starts.ignores_minimum(dag_run, triggering_asset_events)
            return monitor.training_wanted(path, data, run_key=run_key, asked=asked)

        @task
        def plan(what: str, path: str, snapshot: dict[str, Any], *results: Any) -> list[dict[str, Any]]:
            from pipelines.stages import training as training_stages

            return training_stages.plan(what, path, snapshot, *(found[:] for found in results))

        @task(outlets=[candidate_asset(project)], map_index_template=links.OWN_NAME)
        def register(
            path: str, training: dict[str, Any], run: dict[str, str], *, outlet_events: Any = None
        ) -> dict[str, Any]:
            from pipelines.stages import candidates, values

            candidate = candidates.register(path, training["snapshot"], result_of("train"), **run)
            outlet_events[candidate_asset(values.read_project(path))].extra = {"version": candidate["version"]}
            return links.named(candidate, f"version {candidate['version']}")

        @task(task_id="register", outlets=[candidate_asset(project)])
        def register_soup(path: str, parts: Any, soup: Any, run: Any, *, outlet_events: Any = None) -> dict[str, Any]:
            from pipelines.stages import candidates, values

            candidate = candidates.register_soup(path, **parts, soup=result_of("soup", soup), **run)
            outlet_events[candidate_asset(values.read_project(path))].extra = {"version": candidate["version"]}
            return candidate

        snapshot: Any = build_snapshot(location(project), RUN_KEY)
        links.add_links(snapshot, links.DataReportLink())
        checked = enough_new_pairs(location(project), snapshot, RUN_KEY)
        if project.labelling:
            label = TrainJobOperator(task_id="label", given={"snapshot": snapshot}, **job("label"))
            checked >> label
            snapshot = label.output
        caches: Any = []
        if project.encodes():
            encodings = plan.override(task_id="plan_encodings")("encodings", location(project), snapshot)
            checked >> encodings
            if project.captions_wanted():
                given = {"snapshot": snapshot}
                caption = TrainJobOperator(task_id="caption", given=given, generation=0, **job("caption"))
                checked >> caption >> encodings
            encode = TrainJobOperator.partial(task_id="encode", map_index_template=MAP_NAME, **job("encode"))
            caches = encode.expand(given=encodings).output
        references: Any = []
        data = (location(project), snapshot, caches)
        if project.shared_references():
            shared = plan.override(task_id="plan_references")("references", *data)
            once = TrainJobOperator.partial(task_id="reference", map_index_template=MAP_NAME, **job("reference_errors"))
            references = once.expand(given=shared).output
        trainings = plan.override(task_id="plan_trainings")("trainings", *data, references)
        checked >> trainings
        run = {"run_key": RUN_KEY, "trained_by": TRIGGERED_BY}
        each = TrainJobOperator.partial(task_id="train", map_index_template=MAP_NAME, **job("train"))
        train = each.expand(given=trainings)
        if project.soup:
            parts = {"trainings": trainings, "results": train.output}
            soup = TrainJobOperator(task_id="soup", given=parts, **job("soup"))
            registered = register_soup(location(project), parts, soup.output, run)
        else:
            registered = register.partial(path=location(project), run=run).expand(training=trainings)
            train >> registered
        links.add_links(registered, links.ModelVersionLink())
    globals()[dag.dag_id] = dag
