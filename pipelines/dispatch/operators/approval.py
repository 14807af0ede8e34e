"""PromotionApproval: ask a person for approval, where the project requires it, before the champion moves.

The run continues after either answer and after a timeout: the promote task reports and records the consequence. The
answer counts only after that task has checked who gave it. Airflow's `dag.test()` never returns on such a task.

An answer applies to the decision that was on the screen. Airflow 3.3 never changes a question that a task once asked,
so a task that was cleared because its decision changed would show the old one. The task therefore remembers the
decision it asked about, and fails when that differs from the one it is about to ask about or to answer.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from alignment.catalogues.lookup import resolve
from pipelines.contracts.release import Approval, GateDecision
from pipelines.dispatch.operators.candidates import is_anonymous

QUESTION_BUILDER = "pipelines.stages.champion:approval_question"
"""(project path, decision, asked_by=) -> question or None. Named, not imported: it belongs to another wing."""
ASKED_KEY = "asked_about"
"""Key of the task's state store for the digest of the decision it asked about; survives retries and clears."""

_OTHER_DECISION = (
    "The question on the screen was about another decision: the gate decided again after it was asked, and Airflow"
    " still shows the first one. Nothing was moved. Trigger the DAG again; a new run asks a new question."
)


_ANONYMOUS = (
    "A person started this run by posting an asset event, and Airflow does not say who: that person could approve their"
    " own request. Nothing was moved. Trigger the DAG by hand; whoever does so is recorded and may not approve."
)


class PromotionApproval(ApprovalOperator):
    """Ask the approvers who did not trigger the run or train the candidate; push their Approval, or None if not
    required.

    After `timeout_hours` without an answer it counts as rejected.
    """

    template_fields: Sequence[str] = ("project_path", "decision")

    def __init__(
        self,
        *,
        project_path: str,
        decision: Mapping[str, Any],
        timeout_hours: float,
        question_builder: str = QUESTION_BUILDER,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            subject="Make the candidate the champion?",
            defaults=ApprovalOperator.REJECT,
            response_timeout=timedelta(hours=timeout_hours),
            **kwargs,
        )
        self.project_path = project_path
        self.decision = decision
        self.question_builder = question_builder
        self.asked_before = False

    def execute(self, context: Context) -> None:
        """Defer the task until a person answers, unless no approval is required."""
        question = self._question(context)
        if question is None:
            self.log.info("No approval is required.")
            return
        self._ask_about(context, question["decision_digest"])
        self.subject, self.body = question["subject"], question["body"]
        self.assigned_users = question["approvers"]
        self.log.info("Approvers: %s", ", ".join(user["name"] for user in question["approvers"]))
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the answer as an Approval of the decision that was asked about."""
        digest = GateDecision.model_validate(self.decision).digest
        if _asked_about(context) != digest:
            raise AirflowFailException(_OTHER_DECISION)
        # Not ApprovalOperator's own: that one skips the task which reports the consequence.
        answer = HITLOperator.execute_complete(self, context, event)
        user = answer["responded_by_user"] or {"id": "", "name": ""}
        approved = answer["chosen_options"] == [self.APPROVE]
        approval = Approval(
            decision_digest=digest,
            answer="timeout" if event.get("timedout") else "approve" if approved else "reject",
            by=user["name"],
            by_id=user["id"],
            at=answer["responded_at"],
            asked_by=tuple(self._asked_by(context)),
        )
        self.log.info("%s: %s", approval.by or "no answer", approval.answer)
        answered: dict[str, Any] = approval.model_dump(mode="json")
        return answered

    @property
    def announcement(self) -> dict[str, str]:
        """Return the text of the notification sent when approval is requested."""
        again = " It was asked before; an answer given then did not arrive." if self.asked_before else ""
        decision = GateDecision.model_validate(dict(self.decision))
        return {
            "message": self.subject + again,
            "report_uri": decision.report_uri,
            "decision_digest": decision.digest,
        }

    def _question(self, context: Context) -> dict[str, Any] | None:
        builder = resolve(self.question_builder)
        question: dict[str, Any] | None = builder(
            self.project_path, dict(self.decision), asked_by=self._asked_by(context)
        )
        return question

    def _ask_about(self, context: Context, digest: str) -> None:
        """Remember the decision of the question; AirflowFailException when the question was about another decision."""
        asked = _asked_about(context)
        if asked not in (None, digest):
            raise AirflowFailException(_OTHER_DECISION)
        self.asked_before = asked is not None
        if self.asked_before:
            self.log.warning("Asking again: an answer given before did not reach this task, or it was cleared.")
        context["task_state_store"].set(ASKED_KEY, digest, retention=NEVER_EXPIRE)

    def _asked_by(self, context: Context) -> list[str]:
        """List who triggered this run, and who triggered the run of NAME.promote that started it."""
        run, params = context.get("dag_run"), context.get("params") or {}
        names = (run.triggering_user_name if run else None, params.get("asked_by"))
        return list(dict.fromkeys(name for name in names if name))


def approval_run(
    path: str, decision: Mapping[str, Any], context: Mapping[str, Any], question: str = QUESTION_BUILDER
) -> list[dict[str, Any]]:
    """Return arguments of the TriggerDagRunOperator that puts a decision to people in a run of NAME.approve.

    The id is made of the decision and of the run that made it, so that a retry asks nothing twice and a later run asks
    again. AirflowFailException if people are to be asked and the asker is a person of whom nothing is known
    (`candidates.is_anonymous`).
    """
    asker, digest = context["dag_run"].triggering_user_name or "", GateDecision.model_validate(dict(decision)).digest
    if is_anonymous(context) and resolve(question)(path, dict(decision), asked_by=[]) is not None:
        raise AirflowFailException(_ANONYMOUS)
    run_id = f"decision_{digest[:12]}__{context['dag_run'].run_id}"
    return [{"conf": {"decision": digest, "asked_by": asker}, "trigger_run_id": run_id}]


def _asked_about(context: Context) -> Any:
    return context["task_state_store"].get(ASKED_KEY)
