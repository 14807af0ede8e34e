"""Wall time over attempts, including failed and killed ones; each second is charged to the project once."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_requests import made_request

from alignment.contracts.jobs import TrainingPace
from pipelines.contracts.jobs import JobRequest, TrackingTarget
from pipelines.dispatch import job_cost
from pipelines.dispatch.job_cost import _read_cost, charge, keep_record, measured
from pipelines.dispatch.job_folder import JobFolder
from pipelines.records.compute import account, total_compute
from pipelines.records.jobs import find_record
from pipelines.records.series import Series
from pipelines.store.storage import Store, open_store

ROOT = Path(__file__).parents[3]
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


def test_a_killed_attempt_counts_up_to_its_last_save(folder: JobFolder) -> None:
    code = f"""
import time
from datetime import UTC, datetime
from pathlib import Path
from pipelines.dispatch import job_cost
from pipelines.dispatch.job_folder import JobFolder
job_cost.SAVE_EVERY_SECONDS = 0.05
with job_cost.measured(JobFolder(Path({str(folder.path)!r})), cpu=True):
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        deadline = time.monotonic() + 30
        while _read_cost(folder).seconds < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert _read_cost(folder).attempts == 1
    assert _read_cost(folder).seconds >= 0.3


def request_of(store: Store) -> JobRequest:
    return made_request(
        project="tiny", spec_digest=SPEC, output_uri=store.uri("models", SPEC), tracking=TrackingTarget(run_id="r")
    )


def spend(folder: JobFolder, seconds: float) -> None:
    cost = _read_cost(folder)
    job_cost._write_cost(folder, cost.model_copy(update={"seconds": cost.seconds + seconds, "device": "gpu"}))


def test_each_second_is_charged_once(folder: JobFolder, tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    request = request_of(store)
    for _ in range(2):
        spend(folder, 3600)
        charge(folder, request, store)
        charge(folder, request, store)
    assert total_compute(store, "tiny").gpu_hours == 2.0
    assert account(store, "tiny").numbers() == [1, 2]


@pytest.mark.parametrize("written", [True, False])
def test_a_kill_while_charging_neither_loses_nor_repeats_it(
    folder: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    store = open_store((tmp_path / "store").as_uri())
    request = request_of(store)
    spend(folder, 3600)
    create = Series.create

    def die(series: Series[job_cost.ComputeEntry], number: int, entry: job_cost.ComputeEntry) -> bool:
        if written:
            create(series, number, entry)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Series, "create", die)
        with pytest.raises(KeyboardInterrupt):
            charge(folder, request, store)
    if not written:  # the number goes to another job in the meantime
        other = request.model_copy(update={"generation": 1})
        spend(other_folder := JobFolder(tmp_path / "other"), 3600)
        charge(other_folder, other, store)
    spend(folder, 1800)
    charge(folder, request, store)
    assert total_compute(store, "tiny").gpu_hours == (1.5 if written else 2.5)


def test_a_cost_file_of_an_earlier_release_is_read(folder: JobFolder) -> None:
    (folder.work_dir / job_cost.COST_FILE).write_text('{"device": "gpu", "attempts": 2, "seconds": 7.5}')
    assert (_read_cost(folder).seconds, _read_cost(folder).charged_seconds) == (7.5, 0.0)


def test_the_record_has_the_request_without_its_tracking_address(folder: JobFolder, tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    request = request_of(store)
    with measured(folder, cpu=True):
        pass
    keep_record(folder, request, store)
    found = find_record(store, "tiny", "train", SPEC)
    assert found is not None
    assert found.request == request.model_copy(update={"tracking": None})
    assert (found.device, found.attempts) == ("cpu", 1)


def test_the_record_has_the_measured_pace_of_a_training(folder: JobFolder, tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    request = request_of(store)
    keep_record(folder, request, store)
    found = find_record(store, "tiny", "train", SPEC)
    assert found is not None
    assert found.pace is None
    assert "pace" not in found.model_dump(mode="json"), "records without a pace stay as they were"
    pace = TrainingPace(
        device="NVIDIA H200",
        num_processes=2,
        micro_batch=4,
        checkpointed_every=0,
        steps=20,
        pairs_per_second=3.5,
        peak_gib=20.0,
        finished_at=datetime(2026, 11, 29, tzinfo=UTC),
    )
    folder.out_dir.mkdir()
    (folder.out_dir / "pace.json").write_text(pace.model_dump_json())
    keep_record(folder, request, store)
    found = find_record(store, "tiny", "train", SPEC)
    assert found is not None
    assert found.pace == pace
