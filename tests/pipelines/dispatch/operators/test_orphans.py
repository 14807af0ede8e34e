"""Jobs whose task has ended, by the states that Airflow reports; the claims are in a real store."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch import claims, jobs
from pipelines.dispatch.claims import JobClaim
from pipelines.dispatch.operators.orphans import cancel_orphans
from pipelines.settings import load_settings

PROJECT = str(Path(__file__).parents[4] / "projects/shapes.toml")


class TaskInstance:
    """States of the tasks of one run, as Airflow names them."""

    def __init__(self, states: dict[str, Any]) -> None:
        self.states = states

    def get_task_states(self, dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
        wanted = {name: state for name, state in self.states.items() if task_ids[0] in (name, name.rpartition("_")[0])}
        return {run_ids[0]: wanted} if wanted else {}


def claim(task_id: str, map_index: int = -1) -> JobClaim:
    names = {"project": "shapes", "engine": "local", "dag_id": "shapes.train", "run_id": "manual__1"}
    job_id = f"shapes-{task_id}-{map_index}"
    return JobClaim(**names, job_id=job_id, task_id=task_id, map_index=map_index, try_id="1")


def test_only_the_jobs_of_ended_and_deleted_tasks_are_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())
    cancelled: list[str] = []
    monkeypatch.setattr(jobs, "poll", lambda handle, _: JobStatus(state="running", attempt=1))
    monkeypatch.setattr(jobs, "cancel", lambda handle, _: cancelled.append(handle.job_id))
    states = {"train_0": "deferred", "train_1": "failed", "soup": "success", "label": "up_for_retry", "caption": None}
    for made in (claim("train", 0), claim("train", 1), claim("train", 2), *map(claim, ("soup", "label", "caption"))):
        claims.take(made, load_settings())
    context: Any = {"ti": TaskInstance(states)}
    found = cancel_orphans(PROJECT, context)
    assert sorted(found) == sorted(cancelled) == ["shapes-soup--1", "shapes-train-1", "shapes-train-2"]
    assert cancel_orphans(PROJECT, context) == [], "each once"
