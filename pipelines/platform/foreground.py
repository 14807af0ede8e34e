"""`plumbline up`: run the embedded platform in the foreground."""

import logging
import signal
import sys
import threading

from pipelines.platform import services, supervision
from pipelines.platform.preparation import prepare_airflow
from pipelines.project.file import load_projects
from pipelines.release.gate import decision_log
from pipelines.settings import Settings, load_settings
from pipelines.tracking import pages
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)


def _describe_projects(settings: Settings) -> str:
    """Return the addresses of each project's runs, models and last report, one per line; those that exist."""
    lines = []
    for project in load_projects(settings.projects_dir)[0]:
        decision = decision_log.last_decision(Workspace(project, settings))
        shown = {
            "runs": pages.experiment_page(settings, project.name),
            "versions": pages.model_page(settings, project.name),
            "report": pages.report_page(settings, project.name, decision.candidate.version) if decision else "",
        }
        lines += [f"{project.name}: {what:<8} {page}\n" for what, page in shown.items() if page]
    return "".join(lines)


def stay_up(*, mlflow_port: int, airflow_port: int) -> int:
    """Start both servers, print their addresses, wait for Ctrl-C, SIGTERM or `plumbline down`, stop everything."""
    settings = load_settings()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    platform = services.start(settings, mlflow_port=mlflow_port, airflow_port=airflow_port)
    try:
        prepare_airflow(settings, platform)
        password = services.admin_password(settings)
        sys.stderr.write(
            f"Airflow  {platform.airflow.url}   user admin, password {password}\n"
            f"MLflow   {platform.mlflow.url}\n"
            f"To run stages by hand: export MLFLOW_TRACKING_URI={platform.mlflow.url}\n"
            f"{_describe_projects(services.service_settings(settings, platform))}"
            "Ctrl-C or `make down` stops both.\n"
        )
        watch = supervision.Supervision(settings)
        while watch.check() and not stop.wait(1):
            pass
        return 0
    finally:
        services.stop(settings)
