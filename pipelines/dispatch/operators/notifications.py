"""People are told what became of a task: by mail and by webhook, through Airflow's own notifiers and connections.

A message says what happened in one sentence, with links to the report and to the run. What it says is handed to the
notifiers' templates as a value and never read as a template itself. A message that cannot be sent is logged and changes
nothing else.
"""

import html
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier, Context

from pipelines.project.approval import NotifySection
from pipelines.project.file import Project, load_project
from pipelines.settings import load_settings

MESSAGE = "plumbline"
"""Name of the message in the notifiers' templates."""


class TellPeople(BaseNotifier):
    """Tells of an event of a project, if its `[notify]` wants that.

    As a success callback without `event` it reads the task's answer: a Promotion, by its `outcome`, or a
    Reconciliation, by its `state`. With `report_of`, the id of a task that answered with a report's `uri`, the message
    links to that.
    """

    template_fields = ()

    def __init__(self, project_path: str, event: str = "", *, report_of: str = "") -> None:
        super().__init__()
        self.project_path = project_path
        self.event = event
        self.report_of = report_of

    def notify(self, context: Context) -> None:
        """Send what there is to say; see BaseNotifier."""
        project = load_project(Path(self.project_path))
        answer = _announcement(context) if self.event else _answer(context)
        if self.report_of:
            answer["report_uri"] = _answer(context, self.report_of).get("uri", "")
        event = self.event or str(answer.get("outcome") or answer.get("state") or "")
        if not project.notify.wants(event):
            return
        message = compose(project, event, answer, context)
        for notifier in notifiers(project.notify):
            # Whatever goes wrong has been logged, and may keep neither the other from being sent nor the task.
            with suppress(Exception):
                # A fresh mapping: a notifier merges its own fields into what it is given.
                notifier({**context, MESSAGE: message})


def callbacks(project: Project, project_path: str) -> dict[str, list[BaseNotifier]]:
    """Arguments of a task whose success is worth telling."""
    notify = project.notify
    return {"on_success_callback": [TellPeople(project_path)]} if notify.mail or notify.webhook else {}


def failure_callbacks(project: Project, project_path: str) -> dict[str, list[BaseNotifier]]:
    """Arguments of a task whose failure is worth telling."""
    return {"on_failure_callback": [TellPeople(project_path, "failed")]} if project.notify.wants("failed") else {}


def alarm_callbacks(project: Project, project_path: str, *, report_of: str) -> dict[str, list[BaseNotifier]]:
    """Arguments of a task that fails so that somebody looks: told once, as an alarm where those are asked for."""
    event = next((event for event in ("alarm", "failed") if project.notify.wants(event)), "")
    return {"on_failure_callback": [TellPeople(project_path, event, report_of=report_of)] if event else []}


def compose(project: Project, event: str, answer: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, str]:
    """The message: event, subject, text, html, report and run address."""
    run = context["dag_run"]
    said = str(answer.get("message") or "see the run")
    lines = [said]
    report = str(answer.get("report_uri") or "")
    if report:
        lines.append(f"Report: {report}")
    ui = load_settings().airflow_ui_url
    address = f"{ui}/dags/{run.dag_id}/runs/{run.run_id}" if ui else f"{run.dag_id} {run.run_id}"
    lines.append(f"Run: {address}")
    subject = f"Plumbline {project.name}: {event.replace('_', ' ')}"
    return {
        "event": event,
        "subject": subject,
        "text": "\n".join([subject, *lines]),
        "html": "".join(f"<p>{html.escape(line)}</p>" for line in lines),
        "report_uri": report,
        "run": address,
    }


def notifiers(notify: NotifySection) -> list[BaseNotifier]:
    """Airflow's notifiers for what the project names; they take everything from the message."""
    found: list[BaseNotifier] = []
    if notify.mail is not None:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        found.append(
            SmtpNotifier(
                to=list(notify.mail.to),
                from_email=notify.mail.sender,
                subject=f"{{{{ {MESSAGE}.subject }}}}",
                html_content=f"{{{{ {MESSAGE}.html }}}}",
                smtp_conn_id=notify.mail.connection,
            )
        )
    if notify.webhook is not None:
        from airflow.providers.http.notifications.http import HttpNotifier

        fields = ("event", "subject", "text", "report_uri", "run")
        found.append(
            HttpNotifier(
                http_conn_id=notify.webhook.connection,
                endpoint=notify.webhook.endpoint or None,
                json={field: f"{{{{ {MESSAGE}.{field} }}}}" for field in fields},
            )
        )
    return found


def _announcement(context: Context) -> dict[str, Any]:
    """What there is to say of a task without an answer: why it failed, or what it is about to ask."""
    if context.get("exception"):
        return {"message": str(context["exception"])}
    return dict(getattr(context.get("task"), "announcement", {}))


def _answer(context: Context, task_id: str = "") -> dict[str, Any]:
    """What the task returned, or another one of the same run."""
    task_instance = context["ti"]
    answer = task_instance.xcom_pull(task_ids=task_id or task_instance.task_id)
    return dict(answer) if isinstance(answer, Mapping) else {}
