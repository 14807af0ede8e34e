"""Wall time over attempts, including failed ones; the record keeps no address of a tracking server."""

import time
from pathlib import Path

import pytest

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobRequest, TrackingTarget
from pipelines.dispatch.job_cost import _read_cost, keep_record, measured
from pipelines.dispatch.job_folder import JobFolder
from pipelines.records.jobs import find_record
from pipelines.store.storage import open_store

SPEC = "a" * 64


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    own = JobFolder(tmp_path / "job")
    own.work_dir.mkdir(parents=True)
    return own


def fail_slowly(folder: JobFolder) -> None:
    with measured(folder, cpu=False):
        time.sleep(0.05)
        raise RuntimeError


def test_attempts_add_up_including_failed_ones(folder: JobFolder) -> None:
    assert (_read_cost(folder).attempts, _read_cost(folder).seconds) == (0, 0.0)
    with measured(folder, cpu=True):
        time.sleep(0.05)
    first = _read_cost(folder).seconds
    with pytest.raises(RuntimeError):
        fail_slowly(folder)
    effort = _read_cost(folder)
    assert first >= 0.05
    assert effort.seconds >= first + 0.05
    assert (effort.attempts, effort.device) == (2, "gpu")


def test_the_record_has_the_request_without_its_tracking_address(folder: JobFolder, tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    request = JobRequest(
        project="tiny",
        kind="train",
        spec={},
        spec_digest=SPEC,
        inputs=(),
        output_uri=store.uri("models", SPEC),
        placement=Placement(),
        tracking=TrackingTarget(tracking_uri="http://user:secret@host", run_id="r"),
    )
    with measured(folder, cpu=True):
        pass
    keep_record(folder, request, store)
    found = find_record(store, "tiny", "train", SPEC)
    assert found is not None
    assert found.request == request.model_copy(update={"tracking": None})
    assert (found.device, found.attempts) == ("cpu", 1)
    (uri,) = store.list_uris(store.uri("jobs"))
    assert b"secret" not in store.read_bytes(uri)
