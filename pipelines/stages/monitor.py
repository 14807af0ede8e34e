"""Stages of the monitor: report, retraining, alarms."""

from datetime import UTC, datetime

from alignment.contracts.calibration import CalibrationReport
from pipelines.release.champion.versions import champion_of
from pipelines.settings import load_settings
from pipelines.stages.values import Json, read_project, to_json
from pipelines.tracking.pipeline_run import pipeline_run
from pipelines.workspace import Workspace, open_workspace


def has_anything_to_monitor(path: str) -> bool:
    """Return False before the first pair was accepted and the first version promoted."""
    from pipelines.monitor import report as monitor_report

    return monitor_report.has_anything_to_monitor(Workspace(read_project(path), load_settings()))


def monitor(path: str, calibration: Json | None, *, run_key: str, announce: bool = False) -> Json:
    """Make the MonitorReport on the champion, store it and log it to MLflow. `calibration` is a CalibrationReport.

    With `announce`, this run has to announce a retraining that is needed and allowed by the project's rate.
    """
    from pipelines.monitor import report as monitor_report
    from pipelines.tracking import runs

    workspace = open_workspace(path)
    settings = workspace.settings
    try:
        champion = champion_of(workspace)
    except ValueError:
        # The alias contradicts the ledger, which is one of the findings. The champion is then unknown.
        champion = None
    report = monitor_report.monitor(
        workspace,
        champion=champion,
        calibration=CalibrationReport.model_validate(calibration) if calibration else None,
        announce_key=run_key if announce else "",
    )
    with pipeline_run(workspace.project, settings, run_key, []) as run_id:
        runs.log_dict(settings, run_id, to_json(report), "monitor/report.json")
        runs.log_text(settings, run_id, monitor_report.markdown(report), "monitor/report.md")
        runs.set_run_tags(settings, run_id, {"monitor.outcome": report.outcome, "monitor.report_uri": report.uri})
    return to_json(report)


def claim_retraining(path: str, report: Json, *, run_key: str) -> bool:
    """Claim the retraining of a MonitorReport just before announcing it; return False when another run claimed it."""
    from pipelines.contracts.monitor import MonitorReport
    from pipelines.monitor import report as monitor_report

    reasons = MonitorReport.model_validate(report).reasons_to_retrain
    return monitor_report.claim(
        Workspace(read_project(path), load_settings()), reasons, key=run_key, now=datetime.now(UTC)
    )


def training_wanted(path: str, snapshot: Json, *, run_key: str, asked: bool) -> bool:
    """Decide if a run of NAME.train continues: the monitor requested it, or there are enough new pairs.

    `asked` is True when the event of the asset `retrain` was delivered. The store is read as well, because Airflow
    queues no event for a paused DAG. Only one run gets a retraining; a retry of that run gets it again.
    """
    from pipelines.monitor import report as monitor_report
    from pipelines.stages import pairs

    announced = monitor_report.take(Workspace(read_project(path), load_settings()), key=run_key, now=datetime.now(UTC))
    wanted = announced or asked or pairs.enough_new_pairs(path, snapshot)
    if not wanted:
        pairs.close_run(path, run_key=run_key)
    return wanted


def raise_alarms(report: Json) -> None:
    """Raise RuntimeError with the alarms of a MonitorReport, if there are any."""
    from pipelines.contracts.monitor import MonitorReport

    alarms = MonitorReport.model_validate(report).alarms
    if alarms:
        raise RuntimeError(" ".join(alarms))
