"""NAME.approve: ask a person about one decision of the gate, and move the alias if they agree.

NAME.promote starts a run for each decision and goes on judging while people think. Only projects with `[approval]` have
this DAG. A decision that needs nobody is carried out at once.
"""

from typing import Any

from airflow.sdk import DAG, task

from dags.assets import default_args, location, projects
from pipelines.dispatch.operators import links, run_params
from pipelines.dispatch.operators.approval import PromotionApproval
from pipelines.dispatch.operators.notifications import NotifyPeople, callbacks

MOST_QUESTIONS = 100
"""Largest number of decisions that wait for a person at once."""
ASKER = "{{ dag_run.triggering_user_name or params.asked_by or 'airflow' }}"
"""User that moves the champion, for the ledger."""

for project in projects():
    if project.approval.mode == "none":
        continue
    with DAG(
        dag_id=f"{project.name}.approve",
        schedule=None,
        is_paused_upon_creation=False,
        default_args=default_args(project),
        max_active_runs=MOST_QUESTIONS,
        tags=["plumbline", project.name],
        params={
            "decision": run_params.digest("Digest of a decision of NAME.promote."),
            "asked_by": run_params.user("The person who triggered NAME.promote; may not approve."),
        },
        doc_md=__doc__,
    ) as dag:

        @task
        def find_decision(path: str, params: Any = None) -> dict[str, Any]:
            from pipelines.stages import champion

            return champion.decision_of(path, params["decision"])

        @task(**callbacks(project, location(project)))
        def promote(path: str, decision: dict[str, Any], actor: str, approval: Any = None) -> dict[str, Any]:
            from pipelines.stages import champion

            return champion.promote(path, decision, actor=actor, approval=approval)

        decision = find_decision(location(project))
        approval = PromotionApproval(
            task_id="approve",
            project_path=location(project),
            decision=decision,
            timeout_hours=project.approval.timeout_hours,
            notifiers=[NotifyPeople(location(project), "asked")],
        )
        links.add_links(decision, links.ReportLink())
        promoted = promote(location(project), decision, ASKER, approval.output)
        links.add_links(promoted, links.ModelVersionLink())
    globals()[dag.dag_id] = dag
