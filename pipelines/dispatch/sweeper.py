"""Close MLflow runs that a crash left RUNNING.

The run of a job is closed when its engine says that the job has ended, or when no engine knows the job. The run of a
pipeline run is closed when Airflow says that its DAG run has ended, and none of its jobs' runs is open. In doubt, as
with an engine or an Airflow that does not respond, a run stays open.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.contracts.jobs import JobHandle
from pipelines.dispatch import jobs
from pipelines.dispatch.engines.catalogue import Local
from pipelines.dispatch.engines.interface import TERMINAL_STATES
from pipelines.settings import Settings
from pipelines.tracking import open_runs
from pipelines.tracking.open_runs import OpenRun, RunStatus

log = logging.getLogger(__name__)

DagRunState = Callable[[str, str], str | None]
"""Maps a DAG id and a run id to the state that Airflow reports; None when it reports none."""
TIME_TO_SUBMIT = timedelta(minutes=15)
"""The run of a job is made before the job is submitted."""
_BY_JOB_STATE: Mapping[str, RunStatus] = {"succeeded": "FINISHED", "preempted": "KILLED", "cancelled": "KILLED"}
_BY_DAG_RUN_STATE: Mapping[str, RunStatus] = {"success": "FINISHED", "failed": "FAILED"}


@dataclass(frozen=True)
class LostRun:
    """A run that a crash left RUNNING."""

    run: OpenRun
    status: RunStatus
    """Status with which it has to be closed."""
    reason: str


def find_lost_runs(project: str, settings: Settings, dag_run_state: DagRunState) -> list[LostRun]:
    """Find the runs of a project that are RUNNING although nothing runs."""
    found = open_runs.list_open_runs(settings, project)
    lost = [own for run in found if run.job_id and (own := _lost_job(run, settings, dag_run_state))]
    ended = {own.run.run_id for own in lost}
    return lost + _lost_pipelines([run for run in found if run.run_id not in ended], dag_run_state)


def close_lost_runs(project: str, settings: Settings, dag_run_state: DagRunState) -> list[LostRun]:
    """Find and close these runs; return them. A job that starts again meanwhile keeps its run open."""
    closed = []
    for lost in find_lost_runs(project, settings, dag_run_state):
        open_runs.close_lost_run(settings, lost.run.run_id, lost.status, lost.reason)
        if lost.run.job_id and _state(lost.run, settings) in {"pending", "running"}:
            open_runs.reopen_run(settings, lost.run.run_id)
            continue
        log.info("Closed run %s as %s: %s", lost.run.name, lost.status, lost.reason)
        closed.append(lost)
    return closed


def _lost_job(run: OpenRun, settings: Settings, dag_run_state: DagRunState) -> LostRun | None:
    state = _state(run, settings)
    if state in TERMINAL_STATES:
        return LostRun(run, _BY_JOB_STATE.get(state, "FAILED"), f"The job is {state}.")
    if state != "unknown":
        return None
    if _belongs_here(run, settings):
        old = datetime.now(UTC) - run.started_at > TIME_TO_SUBMIT
        return LostRun(run, "FAILED", f"Engine {_engine(run)!r} does not know the job.") if old else None
    if _dag_run_state(run, dag_run_state) in _BY_DAG_RUN_STATE:
        return LostRun(run, "FAILED", f"The DAG run has ended, and the job's host is {run.host or 'not known'}.")
    return None


def _state(run: OpenRun, settings: Settings) -> str:
    """Return the state of a run's job; empty when its engine does not respond."""
    try:
        return jobs.poll(JobHandle(engine=_engine(run), job_id=run.job_id), settings).state
    except Exception as error:
        log.warning("The state of job %s is not known, so its run stays as it is: %s", run.job_id, error)
        return ""


def _engine(run: OpenRun) -> str:
    return run.engine or Local().name


def _belongs_here(run: OpenRun, settings: Settings) -> bool:
    """Return True when the engine would know the job if it had been submitted: only `local` is bound to a host."""
    return _engine(run) != Local().name or run.host == jobs.this_host(settings)


def _lost_pipelines(found: Sequence[OpenRun], dag_run_state: DagRunState) -> list[LostRun]:
    """List the pipeline runs, among open runs, whose DAG run has ended and that have no open run below them."""
    busy = {run.parent_id for run in found if run.job_id}
    lost = []
    for run in found:
        if run.job_id or run.run_id in busy:
            continue
        if not run.dag_run_id:
            lost.append(LostRun(run, "FINISHED", "No job of it is running."))
        elif (state := _dag_run_state(run, dag_run_state)) in _BY_DAG_RUN_STATE:
            lost.append(LostRun(run, _BY_DAG_RUN_STATE[state], f"The DAG run has ended: {state}."))
    return lost


def _dag_run_state(run: OpenRun, dag_run_state: DagRunState) -> str:
    """Return the state of the DAG run of a run; empty when it has none or Airflow does not report it."""
    if not run.dag_run_id:
        return ""
    try:
        return dag_run_state(run.dag_id, run.dag_run_id) or ""
    except Exception as error:
        log.warning("The state of %s %s is not known: %s", run.dag_id, run.dag_run_id, error)
        return ""
