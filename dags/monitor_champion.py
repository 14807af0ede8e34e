"""NAME.monitor: compare the champion with the data that arrived since it was promoted.

A run ends well, updates the asset `retrain`, or fails the task `alarm`, whose log names what a person must check. Alias
and ledger are compared even when the judges could not be scored. Before the first accepted pair and the first promotion
a run is skipped.
"""

from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from dags.assets import RUN_KEY, default_args, location, projects_with_jobs, retrain_asset
from pipelines.dispatch.operators.notifications import alarm_callbacks
from pipelines.dispatch.operators.schedules import clock
from pipelines.dispatch.operators.train_job import TrainJobOperator

for project, job in projects_with_jobs():
    with DAG(
        dag_id=f"{project.name}.monitor",
        schedule=clock(project, project.monitor.schedule),
        is_paused_upon_creation=False,
        default_args=default_args(project),
        max_active_runs=1,
        tags=["plumbline", project.name],
        doc_md=__doc__,
    ) as dag:

        @task
        def build_snapshot(path: str) -> dict[str, Any]:
            from pipelines.stages import monitor as monitor_stages
            from pipelines.stages import pairs, pool

            if not monitor_stages.has_anything_to_monitor(path):
                raise AirflowSkipException("No pair was accepted and no version was promoted yet.")
            pool.check_pool(path)
            return pairs.snapshot(path)

        @task(trigger_rule="none_skipped")
        def monitor(path: str, calibration: dict[str, Any] | None, run_key: str) -> dict[str, Any]:
            from pipelines.stages import judges
            from pipelines.stages import monitor as monitor_stages

            if calibration:
                judges.record_calibration(path, calibration, run_key=run_key)
            return monitor_stages.monitor(path, calibration, run_key=run_key, announce=True)

        @task.short_circuit
        def is_retraining_announced(report: dict[str, Any]) -> bool:
            return bool(report["retrain"] == "due")

        @task(outlets=[retrain_asset(project)])
        def announce_retraining(path: str, report: dict[str, Any], run_key: str, *, outlet_events: Any = None) -> str:
            from pipelines.stages import monitor as monitor_stages
            from pipelines.stages import values

            if not monitor_stages.claim_retraining(path, report, run_key=run_key):
                raise AirflowSkipException("Another run announced a retraining in the meantime.")
            outlet_events[retrain_asset(values.read_project(path))].extra = {"report_uri": report["uri"]}
            return str(report["uri"])

        @task(retries=0, **alarm_callbacks(project, location(project), report_of="monitor"))
        def alarm(report: dict[str, Any]) -> None:
            from pipelines.stages import monitor as monitor_stages

            monitor_stages.raise_alarms(report)

        calibrate = TrainJobOperator(
            task_id="calibrate",
            **job("calibrate"),
            given={"snapshot": build_snapshot(location(project))},
        )
        report = monitor(location(project), calibrate.output, RUN_KEY)
        is_retraining_announced(report) >> announce_retraining(location(project), report, RUN_KEY)
        alarm(report)
    globals()[dag.dag_id] = dag
