"""NAME.promote: evaluate a candidate against champion and base on held-out prompts, apply the gate, and move the alias
if it agrees. An event judges every undecided version, one run after another. Where the project requires a person, each
decision is put to them by a run of NAME.approve, which keeps no other version waiting.
"""

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, task

from dags.assets import ACTOR, RUN_KEY, TRIGGERED_BY, candidate_asset, location, projects_with_jobs, usual
from pipelines.dispatch.operators import candidates, links, results, run_params
from pipelines.dispatch.operators.approval import approval_run
from pipelines.dispatch.operators.notifications import callbacks
from pipelines.dispatch.operators.train_job import TrainJobOperator

RUN_NAME = "{{ task.trigger_run_id }}"

for project, job in projects_with_jobs():
    with DAG(
        dag_id=f"{project.name}.promote",
        schedule=[candidate_asset(project)],
        **usual(project),
        params={
            "generation": run_params.number("Raise to evaluate again."),
            "version": run_params.number("Version to judge; 0: the candidate alias."),
            "tried": run_params.versions("Set by judge_next."),
            "anonymous": run_params.flag("Set by judge_next."),
        },
        doc_md=__doc__,
    ) as dag:

        @task.short_circuit
        def versions_to_judge(path: str, params: Any = None, dag_run: Any = None) -> list[int]:
            from pipelines.stages import candidates as candidate_stages
            from pipelines.stages import pool

            pool.check_pool(path)
            given = {name: params[name] for name in ("version", "generation", "tried")}
            return candidate_stages.versions_to_judge(path, **given, by_event=dag_run.run_type == "asset_triggered")

        @task
        def pick_candidate(path: str, versions: list[int]) -> dict[str, Any]:
            from pipelines.stages import candidates as candidate_stages

            return candidate_stages.pick_candidate(path, version=versions[0])

        @task
        def list_next(versions: list[int], **context: Any) -> Any:
            return candidates.following_run(versions, context)

        @task.short_circuit
        def is_challenger(path: str, candidate: dict[str, Any]) -> bool:
            from pipelines.stages import candidates as candidate_stages

            return candidate_stages.is_challenger(path, candidate)

        @task
        def gate(path: str, candidate: Any, report: Any, run_key: str, coverage: Any = None, asked_by: str = "") -> Any:
            from pipelines.stages import candidates as candidate_stages

            report = results.result_of("evaluate", report)
            return candidate_stages.gate(path, candidate, report, run_key=run_key, coverage=coverage, asked_by=asked_by)

        @task(**callbacks(project, location(project)))
        def promote(path: str, decision: dict[str, Any], actor: str) -> dict[str, Any]:
            from pipelines.stages import champion

            return champion.promote(path, decision, actor=actor)

        @task
        def list_approval(path: str, decision: dict[str, Any], **context: Any) -> Any:
            return approval_run(path, decision, context)

        versions = versions_to_judge(location(project))
        run: dict[str, Any] = {"logical_date": None, "skip_when_already_exists": True, "map_index_template": RUN_NAME}
        judge_next = TriggerDagRunOperator.partial(task_id="judge_next", trigger_dag_id=dag.dag_id, **run)
        judge_next.expand_kwargs(list_next(versions))
        candidate = pick_candidate(location(project), versions)
        evaluate = TrainJobOperator(task_id="evaluate", given={"candidate": candidate}, **job("evaluate"))
        coverage = None
        if project.coverage is not None:
            coverage = TrainJobOperator(task_id="coverage", given={"candidate": candidate}, **job("coverage"))
            evaluate >> coverage
        is_challenger(location(project), candidate) >> evaluate
        repeated = coverage.output if coverage else None
        decision = gate(location(project), candidate, evaluate.output, RUN_KEY, repeated, TRIGGERED_BY)
        links.add_links(decision, links.ReportLink())
        if project.approval.mode == "none":
            links.add_links(promote(location(project), decision, ACTOR), links.ModelVersionLink())
        else:
            ask = TriggerDagRunOperator.partial(task_id="ask", trigger_dag_id=f"{project.name}.approve", **run)
            ask.expand_kwargs(list_approval(location(project), decision))
    globals()[dag.dag_id] = dag
