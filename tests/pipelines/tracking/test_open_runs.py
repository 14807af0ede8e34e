"""Open runs on a real server: listed with their job and DAG run, closed with a reason, reopened by the next attempt."""

import uuid
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import DevicePrices, Placement
from pipelines.contracts.jobs import ComputeTotal, JobRecord
from pipelines.settings import Settings
from pipelines.tracking import open_runs, runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

KEY = "p.train/manual__1"
TAGS = {"airflow.dag_id": "p.train", "airflow.run_id": "manual__1"}


@pytest.fixture
def project() -> str:
    return f"p{uuid.uuid4().hex[:8]}"


@pytest.fixture
def run_id(tracked: Settings, project: str) -> str:
    """The run of a job under the run of a DAG run."""
    runs.parent_run(tracked, project=project, key=KEY, tags=TAGS)
    return runs.job_run(
        tracked,
        project=project,
        request_job_id="p-train-0-g0",
        kind="train",
        parent_key=KEY,
        config={},
        tags={runs.ENGINE_TAG: "local", runs.HOST_TAG: "here"},
    ).run_id


def found(settings: Settings, run_id: str) -> Any:
    with runs.connect(settings.tracking_uri) as client:
        return client.get_run(run_id)


def test_open_runs_are_listed_with_their_job_and_their_dag_run(tracked: Settings, project: str, run_id: str) -> None:
    assert open_runs.list_open_runs(tracked, "no_such_project") == []
    parent, job = open_runs.list_open_runs(tracked, project)
    assert (parent.dag_id, parent.dag_run_id, parent.job_id) == ("p.train", "manual__1", "")
    assert (job.run_id, job.job_id, job.engine, job.host) == (run_id, "p-train-0-g0", "local", "here")
    assert job.parent_id == parent.run_id
    runs.finish_run(tracked, run_id, "FINISHED")
    assert open_runs.list_open_runs(tracked, project) == [parent]


def test_only_the_parent_of_jobs_by_hand_ends_with_a_job(tracked: Settings, project: str, run_id: str) -> None:
    by_hand = runs.job_run(
        tracked, project=project, request_job_id="p-train-1-g0", kind="train", parent_key="by_hand", config={}
    )
    open_runs.finish_parent(tracked, by_hand.run_id)
    runs.set_run_tags(tracked, run_id, TAGS)
    open_runs.finish_parent(tracked, run_id)
    assert {run.name for run in open_runs.list_open_runs(tracked, project)} == {
        "p-train-0-g0",
        "p-train-1-g0",
        runs._run_name(KEY),
    }


def test_a_closed_run_has_the_reason_until_the_next_attempt(tracked: Settings, run_id: str) -> None:
    open_runs.close_lost_run(tracked, run_id, "FAILED", "The job is lost.")
    run = found(tracked, run_id)
    assert (run.info.status, run.data.tags[open_runs.CLOSED_TAG]) == ("FAILED", "The job is lost.")
    open_runs.start_attempt(tracked, run_id, 2)
    run = found(tracked, run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags[open_runs.ATTEMPTS_TAG] == "2"
    assert open_runs.CLOSED_TAG not in run.data.tags


def test_cost_is_a_metric_of_the_run_and_a_tag_of_the_project(tracked: Settings, project: str, run_id: str) -> None:
    request = made_request(
        project=project, placement=Placement(num_processes=4), prices=DevicePrices(currency="EUR", gpu_hour=2.5)
    )
    for attempts, seconds in ((1, 1800.0), (2, 3600.0)):
        record = JobRecord(request=request, device="gpu", attempts=attempts, seconds=seconds)
        open_runs.log_cost(tracked, run_id, record)
    assert found(tracked, run_id).data.metrics == {"cost/gpu_hours": 4.0, "cost/EUR": 10.0}
    open_runs.show_project_total(tracked, project, ComputeTotal(gpu_hours=4.0, cost={"EUR": 10.0}))
    with runs.connect(tracked.tracking_uri) as client:
        tags = client.get_experiment_by_name(project).tags
    assert {"cost.gpu_hours": "4.0000", "cost.EUR": "10.0000"}.items() <= tags.items()
    assert "cost.cpu_hours" not in tags
