"""PromotionApproval: a person is asked, where the project wants one, before the champion moves.

Both answers, and none in time, let the run go on: the promote task says what followed and leaves it on record. The
answer counts only after that task has looked at who gave it. Airflow's `dag.test()` never returns on such a task.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Context

from alignment.lookup import resolve
from pipelines.contracts import Approval, GateDecision

QUESTION_BUILDER = "pipelines.champion_stages:approval_question"
"""(project path, decision, asked_by=) -> question or None. Named, not imported: it belongs to another wing."""


class PromotionApproval(ApprovalOperator):
    """Ask the approvers who did not trigger the run or train the candidate; push their Approval, None if none is due.

    Until `timeout_hours` have passed; then it counts as rejected.
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

    def execute(self, context: Context) -> None:
        """Park the task until somebody answers, unless nobody has to."""
        question = self._question(context)
        if question is None:
            self.log.info("Nobody has to be asked.")
            return
        self.subject, self.body = question["subject"], question["body"]
        self.assigned_users = question["approvers"]
        self.log.info("Asked are: %s", ", ".join(user["name"] for user in question["approvers"]))
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """The answer as an Approval."""
        # Not ApprovalOperator's own: that one skips the task which says what followed.
        answer = HITLOperator.execute_complete(self, context, event)
        user = answer["responded_by_user"] or {"id": "", "name": ""}
        approved = answer["chosen_options"] == [self.APPROVE]
        approval = Approval(
            decision_digest=GateDecision.model_validate(self.decision).digest,
            answer="timeout" if event.get("timedout") else "approve" if approved else "reject",
            by=user["name"],
            by_id=user["id"],
            at=answer["responded_at"],
            asked_by=tuple(self._asked_by(context)),
        )
        self.log.info("%s: %s", approval.by or "nobody", approval.answer)
        answered: dict[str, Any] = approval.model_dump(mode="json")
        return answered

    @property
    def announcement(self) -> dict[str, str]:
        """What people are told when they are asked."""
        return {"message": self.subject, "report_uri": str(self.decision.get("report_uri", ""))}

    def _question(self, context: Context) -> dict[str, Any] | None:
        builder = resolve(self.question_builder)
        question: dict[str, Any] | None = builder(
            self.project_path, dict(self.decision), asked_by=self._asked_by(context)
        )
        return question

    def _asked_by(self, context: Context) -> list[str]:
        name = context["dag_run"].triggering_user_name
        return [name] if name else []
