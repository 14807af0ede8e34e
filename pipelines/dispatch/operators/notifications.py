"""Notifications about the result of a task: by mail and by webhook, through Airflow's notifiers and connections.

A message states what happened in one sentence, with links to the report and to the run; a mail about a decision also
has the images of the prompt on which the candidate gained most. The notifiers' templates receive its text as a value
and never read it as a template. A message that cannot be sent is logged and changes nothing else.
"""

import html
import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier, Context

from alignment.catalogues.lookup import resolve
from pipelines.project.approval import NotifySection
from pipelines.project.file import Project, load_project
from pipelines.settings import load_settings

log = logging.getLogger(__name__)

EVIDENCE_BUILDER = "pipelines.stages.notification:evidence_for"
"""(project path, result, folder) -> report_page and images. Named, not imported: it joins the wings."""
MESSAGE = "plumbline"
"""Name of the message in the notifiers' templates."""


class NotifyPeople(BaseNotifier):
    """Notify of an event of a project, if its `[notify]` lists the event.

    As a success callback without `event` it reads the task's result: a Promotion, by its `outcome`, or a
    Reconciliation, by its `state`. With `report_of`, the id of a task that returned a report's `uri`, the message links
    to that report.
    """

    template_fields = ()

    def __init__(self, project_path: str, event: str = "", *, report_of: str = "") -> None:
        super().__init__()
        self.project_path = project_path
        self.event = event
        self.report_of = report_of

    def notify(self, context: Context) -> None:
        """Send the message, if there is one; see BaseNotifier."""
        project = load_project(Path(self.project_path))
        result = _announcement(context) if self.event else _result(context)
        if self.report_of:
            result["report_uri"] = _result(context, self.report_of).get("uri", "")
        event = self.event or str(result.get("outcome") or result.get("state") or "")
        if not project.notify.wants(event):
            return
        with tempfile.TemporaryDirectory(prefix="plumbline-notify-") as scratch:
            evidence = self._evidence(result, Path(scratch))
            result |= {"report_uri": evidence["report_page"] or result.get("report_uri", "")}
            message = compose(project, event, result, context)
            for notifier in notifiers(project.notify, images=evidence["images"]):
                # Any error has been logged; it must not keep the other notifier from sending, nor fail the task.
                with suppress(Exception):
                    # A fresh mapping: a notifier merges its own fields into the one it receives.
                    notifier({**context, MESSAGE: message})

    def _evidence(self, result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return report page and images; none, with a warning, when the store or MLflow cannot be reached."""
        nothing: dict[str, Any] = {"report_page": "", "images": []}
        if not result.get("decision_digest"):
            return nothing
        try:
            found: dict[str, Any] = resolve(EVIDENCE_BUILDER)(self.project_path, result, folder)
        except Exception as error:
            log.warning("The notification has neither images nor a link to the report's page: %s", error)
            return nothing
        return found


def callbacks(project: Project, project_path: str) -> dict[str, list[BaseNotifier]]:
    """Return arguments of a task whose success is notified."""
    notify = project.notify
    return {"on_success_callback": [NotifyPeople(project_path)]} if notify.mail or notify.webhook else {}


def failure_callbacks(project: Project, project_path: str) -> dict[str, list[BaseNotifier]]:
    """Return arguments of a task whose failure is notified."""
    return {"on_failure_callback": [NotifyPeople(project_path, "failed")]} if project.notify.wants("failed") else {}


def alarm_callbacks(project: Project, project_path: str, *, report_of: str) -> dict[str, list[BaseNotifier]]:
    """Return arguments of a task that fails on purpose: notified once, as an alarm where `[notify]` lists alarms."""
    event = next((event for event in ("alarm", "failed") if project.notify.wants(event)), "")
    return {"on_failure_callback": [NotifyPeople(project_path, event, report_of=report_of)] if event else []}


def compose(project: Project, event: str, result: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, str]:
    """Compose the message: event, subject, text, html, report and run address."""
    run = context["dag_run"]
    sentence = str(result.get("message") or "see the run")
    lines = [sentence]
    report = str(result.get("report_uri") or "")
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
        # Slack reads &, < and > as its own marks, such as <!channel>.
        "escaped": html.escape("\n".join([subject, *lines]), quote=False),
        # Two line ends: one alone is a space in the Markdown of Teams' cards.
        "lines": "\n\n".join(lines),
        "html": "".join(f"<p>{html.escape(line)}</p>" for line in lines),
        "report_uri": report,
        "run": address,
    }


def notifiers(notify: NotifySection, *, images: Sequence[str] = ()) -> list[BaseNotifier]:
    """Build Airflow's notifiers for the project's recipients; they read everything from the message.

    `images` are attached to a mail.
    """
    found: list[BaseNotifier] = []
    if notify.mail is not None:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        found.append(
            SmtpNotifier(
                to=list(notify.mail.to),
                from_email=notify.mail.sender,
                subject=f"{{{{ {MESSAGE}.subject }}}}",
                html_content=f"{{{{ {MESSAGE}.html }}}}",
                files=list(images) or None,
                smtp_conn_id=notify.mail.connection,
            )
        )
    if notify.webhook is not None:
        from airflow.providers.http.notifications.http import HttpNotifier

        found.append(
            HttpNotifier(
                http_conn_id=notify.webhook.connection,
                endpoint=notify.webhook.endpoint or None,
                json=_payload(notify.webhook.format),
            )
        )
    return found


def _payload(form: str) -> dict[str, Any]:
    """Return the templates of a webhook's body."""
    plain = ("event", "subject", "text", "report_uri", "run")
    field = {name: f"{{{{ {MESSAGE}.{name} }}}}" for name in (*plain, "escaped", "lines")}
    if form == "slack":
        return {"text": field["escaped"]}
    if form == "teams":
        title = {"type": "TextBlock", "text": field["subject"], "weight": "Bolder", "wrap": True}
        body = {"type": "TextBlock", "text": field["lines"], "wrap": True}
        card = {"type": "AdaptiveCard", "version": "1.4", "body": [title, body]}
        kind = "application/vnd.microsoft.card.adaptive"
        return {"type": "message", "attachments": [{"contentType": kind, "content": card}]}
    return {name: field[name] for name in plain}


def _announcement(context: Context) -> dict[str, Any]:
    """Return the text about a task without a result: why it failed, or what it is about to ask."""
    if context.get("exception"):
        return {"message": str(context["exception"])}
    return dict(getattr(context.get("task"), "announcement", {}))


def _result(context: Context, task_id: str = "") -> dict[str, Any]:
    """Return the result of the task, or of another one of the same run."""
    task_instance = context["ti"]
    result = task_instance.xcom_pull(task_ids=task_id or task_instance.task_id)
    return dict(result) if isinstance(result, Mapping) else {}
