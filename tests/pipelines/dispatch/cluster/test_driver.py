"""Final states and sizes that the driver derives; the drive itself is in tests/pipelines/dispatch/engines."""

from pathlib import Path
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement, Progress
from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch.cluster import driver
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords
from pipelines.dispatch.cluster.board import News
from pipelines.settings import load_settings
from pipelines.store.storage import open_store

CRASHED = JobStatus(state="failed", attempt=1, failure_kind="crashed", message="SIGKILL")


@pytest.fixture
def drive(tmp_path: Path) -> driver._Drive:
    environ = {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    settings = load_settings(environ)
    records = AttemptRecords(open_store(settings.store_uri), "words-train-a-g0")
    request = made_request(placement=Placement(engine="ray", max_restarts=2))
    attempt = Attempt(request=request, grace_seconds=1, resize_seconds=1, version="0.0", created_at=7.0)
    records.create(1, attempt)
    return driver._Drive(settings, records, 1, ("worker",))


def news(**fields: Any) -> News:
    progress = Progress(done=2, total=3, unit="steps")
    return News(**{"log": b"", "progress": progress, "started": True, "cause": None, "finished": False, **fields})


def test_a_published_result_is_a_success_whatever_a_later_rank_did(drive: driver._Drive) -> None:
    status = driver._final(drive, news(finished=True, cause=CRASHED), "")
    assert (status.state, status.exit_code, status.progress_done, status.progress_total) == ("succeeded", 0, 2, 3)


def test_the_cause_is_the_first_ranks_status(drive: driver._Drive) -> None:
    status = driver._final(drive, news(cause=CRASHED), "WorkerGroupError: it follows")
    assert (status.message, status.progress_done) == ("SIGKILL", 2)


def test_a_cancel_comes_before_the_status_that_it_made(drive: driver._Drive) -> None:
    drive.records.request_cancel(1)
    assert driver._final(drive, news(cause=CRASHED), "").state == "cancelled"


def test_a_driver_that_was_stopped_before_any_rank_is_preempted(drive: driver._Drive) -> None:
    drive.on_sigterm(15, None)
    status = driver._final(drive, news(started=False, progress=None), "")
    assert (status.state, status.failure_kind, status.exit_code) == ("preempted", "preempted", 143)


def test_lost_nodes_name_the_limit_and_the_last_error(drive: driver._Drive) -> None:
    status = driver._final(drive, news(), "WorkerGroupError: node died")
    assert (status.state, status.failure_kind) == ("failed", "crashed")
    assert "placement.max_restarts = 2" in status.message
    assert "node died" in status.message


def test_a_cluster_with_another_version_fails_as_bad_input(drive: driver._Drive) -> None:
    status = driver._run(drive)
    assert (status.state, status.failure_kind) == ("failed", "bad_input")
    assert "the control plane 0.0" in status.message


def test_an_order_to_stop_ends_an_attempt_that_no_rank_could_obey(drive: driver._Drive) -> None:
    given: list[tuple[object, ...]] = []
    desk = driver._Desk(drive, lambda *order: given.append(order))
    desk.pass_orders()
    assert not desk.is_stopped(news(started=False))
    drive.records.request_cancel(1)
    desk._looked_at = 0.0
    desk.pass_orders()
    assert given == [("give", "cancel")]
    assert desk.is_stopped(news(started=False))
    assert not desk.is_stopped(news(started=True)), "a rank saves its work"


def test_states_are_written_when_they_change_and_not_at_every_look(drive: driver._Drive) -> None:
    desk = driver._Desk(drive, lambda *_: None)
    desk.note(news(started=False, progress=None))
    state = drive.records.read_state(1)
    assert state is not None
    assert state.status.state == "pending"
    desk.note(news())
    desk.note(news(progress=Progress(done=3, total=3, unit="steps")))
    state = drive.records.read_state(1)
    assert state is not None
    assert (state.status.state, state.status.progress_done) == ("running", 2)


def test_sizes_and_resources_follow_the_placement() -> None:
    assert driver._num_workers(Placement(engine="ray", num_processes=4)) == 4
    assert driver._num_workers(Placement(engine="ray", num_processes=4, min_processes=2)) == (2, 4)
    placement = Placement(engine="ray", threads_per_process=8, gpus_per_process=1)
    assert driver._resources(placement) == {"CPU": 8.0, "GPU": 1.0}
    assert driver._resources(Placement(engine="ray")) == {"CPU": 1.0}
