"""The list of jobs: from job folders, from attempts on a cluster, and from records of jobs that ran elsewhere."""

import os
import time
from pathlib import Path

import pytest
from made_requests import made_request

from alignment.contracts.jobs import DevicePrices, Placement
from pipelines.contracts.jobs import JobRecord, JobStatus
from pipelines.dispatch import job_list
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords
from pipelines.dispatch.job_folder import JobFolder
from pipelines.host import record_of
from pipelines.records.jobs import save_record
from pipelines.settings import Settings
from pipelines.store.storage import open_store

PRICES = DevicePrices(currency="EUR", gpu_hour=2.0)


def local_job(settings: Settings, digit: str, *, state: str, age_seconds: float = 300, **fields: object) -> str:
    """Leave a job folder as a submit leaves it; return the job's id."""
    request = made_request(settings.store_uri, spec_digest=digit * 64, **fields)
    folder = JobFolder(settings.state_dir / "jobs" / request.job_id)
    folder.write_request(request)
    os.utime(folder.path / "request.json", (time.time() - age_seconds,) * 2)
    folder.write_status(JobStatus.model_validate({"state": state, "attempt": 2}))
    folder.write_supervisor(record_of(os.getpid()))
    folder.out_dir.mkdir(parents=True)
    (folder.out_dir / "progress.json").write_text('{"done": 120, "total": 200, "unit": "steps"}')
    return request.job_id


def finished(settings: Settings, digit: str) -> JobRecord:
    request = made_request(
        settings.store_uri, spec_digest=digit * 64, placement=Placement(num_processes=4), prices=PRICES
    )
    record = JobRecord(request=request, device="gpu", attempts=1, seconds=900.0)
    save_record(open_store(settings.store_uri, settings), record)
    return record


def test_jobs_are_listed_with_state_progress_age_and_cost_the_newest_first(settings: Settings) -> None:
    old = local_job(settings, "a", state="succeeded", age_seconds=3 * 86_400)
    new = local_job(settings, "b", state="running")
    finished(settings, "a")
    elsewhere = finished(settings, "c").request.job_id
    found = job_list.list_jobs(settings)
    assert [own.job_id for own in found] == [new, old, elsewhere]
    running, ended, away = found
    assert (running.state, running.progress, running.age, running.compute) == (
        "running",
        "120 of 200 steps",
        "5 min",
        "",
    )
    assert (ended.state, ended.age, ended.compute) == ("succeeded", "3 days", "1 GPU-hours, 2.00 EUR")
    assert (ended.device_hours, ended.cost, ended.currency) == (1.0, 2.0, "EUR")
    assert (away.state, away.age, away.started_at, away.cost) == ("succeeded", "", None, 2.0)


def test_only_the_jobs_of_a_project_or_those_that_run_are_listed(settings: Settings) -> None:
    local_job(settings, "a", state="failed")
    other = local_job(settings, "b", state="running", project="other")
    finished(settings, "c")
    assert [own.job_id for own in job_list.list_jobs(settings, "other")] == [other]
    assert [own.job_id for own in job_list.list_jobs(settings, active=True)] == [other]


def test_a_job_on_a_cluster_that_does_not_answer_is_listed_with_the_reason(settings: Settings) -> None:
    request = made_request(settings.store_uri, placement=Placement(engine="ray"))
    attempt = Attempt(request=request, grace_seconds=1, resize_seconds=1, version="1", created_at=time.time() - 60)
    records = AttemptRecords(open_store(settings.store_uri, settings), request.job_id)
    records.create(1, attempt)
    records.write_log(1, 0, b"a line\n")
    (own,) = job_list.list_jobs(settings)
    assert (own.job_id, own.engine, own.state) == (request.job_id, "ray", "unknown")
    assert "PLUMBLINE_RAY_ADDRESS" in own.message
    records.write_status(1, JobStatus(state="failed", attempt=1, message="It diverged."))
    (own,) = job_list.list_jobs(settings)
    assert (own.state, own.message) == ("failed", "It diverged.")


def test_a_list_creates_nothing(settings: Settings, tmp_path: Path) -> None:
    assert job_list.list_jobs(settings) == []
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_found_by_a_beginning_that_no_other_has(settings: Settings) -> None:
    first, second = (local_job(settings, digit, state="running") for digit in "ab")
    assert job_list.find_job(first, settings).job_id == first
    assert job_list.find_job("words-train-b", settings).job_id == second
    with pytest.raises(ValueError, match=rf"2 jobs begin with 'words-': {first}, {second}\. Give more letters"):
        job_list.find_job("words-", settings)
    with pytest.raises(ValueError, match=rf"begins with 'wrds-train-bbb'\. Did you mean '{second}'\?"):
        job_list.find_job("wrds-train-bbb", settings)
    with pytest.raises(ValueError, match="No job of this host"):
        job_list.find_job("", settings)


def test_an_id_that_another_one_begins_with_is_found(settings: Settings) -> None:
    first = local_job(settings, "a", state="running", generation=1)
    local_job(settings, "a", state="running", generation=10)
    assert job_list.find_job(first, settings).job_id == first


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")]
)
def test_a_duration_has_its_largest_unit(seconds: float, text: str) -> None:
    assert job_list._duration(seconds) == text


def test_outputs_of_ended_jobs_that_leave_the_store_are_deleted_and_no_others(settings: Settings) -> None:
    ended, running, other = (
        local_job(settings, digit, state=state, output_uri=f"{settings.store_uri}/features/{digit * 64}")
        for digit, state in (("a", "succeeded"), ("b", "running"), ("c", "succeeded"))
    )
    folders = {own: JobFolder(settings.state_dir / "jobs" / own) for own in (ended, running, other)}
    requests = {own: folder.read_request() for own, folder in folders.items()}
    uris = {own: request.output_uri for own, request in requests.items() if request is not None}
    with pytest.raises(ValueError, match=f"still run: {running}. Wait, or cancel them"):
        job_list.delete_outputs([uris[ended], uris[running]], settings)
    assert all(folder.out_dir.exists() for folder in folders.values())
    assert job_list.delete_outputs([uris[ended]], settings) == [ended]
    assert [folders[own].out_dir.exists() for own in (ended, running, other)] == [False, True, True]
    assert folders[ended].read_request() == requests[ended]
    assert job_list.delete_outputs([uris[ended]], settings) == []
