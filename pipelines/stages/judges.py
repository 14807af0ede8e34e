"""Stages of the judges: register trained rewards, record calibrations, list the judges."""

from alignment.contracts.calibration import CalibrationReport
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.reward_models import RewardTrainResult
from pipelines.settings import load_settings
from pipelines.stages.values import Json, read_project, to_json
from pipelines.tracking.pipeline_run import pipeline_run
from pipelines.workspace import Workspace, open_workspace


def register_reward(path: str, plan: Json, result: Json, *, run_key: str) -> Json:
    """Register a trained reward model as a RegisteredJudge, and log its report to MLflow."""
    from pipelines.release.registration import trained_judges

    workspace = open_workspace(path)
    data = DatasetSnapshot.model_validate(plan["snapshot"])
    trained = RewardTrainResult.model_validate(result)
    section = workspace.project.rewards[int(plan["reward"])]
    with pipeline_run(workspace.project, workspace.settings, run_key, [data]) as run_id:
        judge = trained_judges.register(trained, section, workspace, snapshot=data, run_id=run_id)
    return to_json(judge)


def record_calibration(path: str, report: Json, *, run_key: str) -> list[Json]:
    """Store a CalibrationReport as one record per judge, and log it to MLflow."""
    from pipelines.records import calibrations
    from pipelines.tracking import runs

    workspace = open_workspace(path)
    measured = CalibrationReport.model_validate(report)
    records = calibrations.record(measured, workspace.project.name, workspace.store)
    with pipeline_run(workspace.project, workspace.settings, run_key, []) as run_id:
        runs.log_dict(workspace.settings, run_id, report, "calibration/report.json")
    return [to_json(record) for record in records]


def judges(path: str) -> list[Json]:
    """Return the JudgeState of each judge of the project: its right to vote, with the reasons if it has none."""
    from pipelines.monitor import judges as judges_monitor

    return [to_json(own) for own in judges_monitor.judge_states(Workspace(read_project(path), load_settings()))]
