"""Cost of finished jobs: added up by kind and device, each record read once."""

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobRecord
from pipelines.platform.exporter import finished_jobs
from pipelines.platform.exporter.metrics import Reading
from pipelines.project.file import Project
from pipelines.records.jobs import save_record
from pipelines.settings import Settings
from pipelines.store.disk import DiskBackend
from pipelines.store.storage import open_store


def save(settings: Settings, digit: str, kind: str = "train", seconds: float = 1800.0, device: str = "gpu") -> None:
    request = made_request(project="tiny", kind=kind, spec_digest=digit * 64, placement=Placement(num_processes=4))
    record = JobRecord.model_validate({"request": request, "device": device, "attempts": 2, "seconds": seconds})
    save_record(open_store(settings.store_uri, settings), record)


def test_hours_are_added_up_by_kind_and_device(
    settings: Settings, tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(settings, "a")
    save(settings, "b", seconds=900.0)
    save(settings, "c", kind="encode", device="cpu")
    reading = Reading(settings, tiny_project)
    found = {(s.metric.name, *s.labels[1:]): s.value for s in finished_jobs.read(reading)}
    assert found == {
        ("plumbline_jobs_finished_total", "train", "gpu"): 2,
        ("plumbline_job_attempts_total", "train", "gpu"): 4,
        ("plumbline_job_device_hours_total", "train", "gpu"): 3.0,
        ("plumbline_jobs_finished_total", "encode", "cpu"): 1,
        ("plumbline_job_attempts_total", "encode", "cpu"): 2,
        ("plumbline_job_device_hours_total", "encode", "cpu"): 2.0,
    }
    save(settings, "d")
    reads = []
    read = DiskBackend.read
    monkeypatch.setattr(DiskBackend, "read", lambda self, uri: (reads.append(uri), read(self, uri))[1])
    later = {(s.metric.name, *s.labels[1:]): s.value for s in finished_jobs.read(reading)}
    assert later["plumbline_job_device_hours_total", "train", "gpu"] == 5.0
    assert len(reads) == 1, "only the new record is read"


def test_without_jobs_there_is_no_sample(settings: Settings, tiny_project: Project) -> None:
    assert finished_jobs.read(Reading(settings, tiny_project)) == []
