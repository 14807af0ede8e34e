"""Attempts in a store: numbers that one process owns, logs in pieces, a cursor over all of it."""

from pathlib import Path

import pytest
from made_requests import made_request

from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch.cluster import attempts
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords, LogWriter, cluster_name
from pipelines.store.storage import open_store


@pytest.fixture
def records(tmp_path: Path) -> AttemptRecords:
    return AttemptRecords(open_store((tmp_path / "store").as_uri()), "words-train-a-g0")


def make_attempt() -> Attempt:
    request = made_request()
    return Attempt(request=request, grace_seconds=1, resize_seconds=1, version="1", created_at=7.0)


def test_a_job_has_another_name_for_each_store_that_shares_a_cluster() -> None:
    names = {cluster_name(store, "words-train-a-g0") for store in ("s3://staging", "s3://production")}
    assert len(names) == 2
    assert all(name.startswith("words-train-a-g0-") for name in names)


def read_all(records: AttemptRecords, cursor: int = 0, *, finished: bool = False) -> tuple[list[str], int]:
    lines: list[str] = []
    while (chunk := records.read_log(cursor, finished=finished)).cursor != cursor:
        lines += chunk.lines
        cursor = chunk.cursor
    return lines, cursor


def test_one_process_owns_a_number(records: AttemptRecords) -> None:
    assert records.latest() == 0
    assert records.create(1, make_attempt())
    assert not records.create(1, make_attempt().model_copy(update={"created_at": 8.0}))
    assert records.read(1).created_at == 7.0
    assert records.latest() == 1


def test_a_lost_hint_hides_no_attempt(records: AttemptRecords, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        records.create(number, make_attempt())
    (hint,) = (tmp_path / "store").rglob("latest.json")
    hint.write_text("1")
    assert records.latest() == 3
    hint.unlink()
    assert records.latest() == 3


def test_a_state_says_when_it_was_written(records: AttemptRecords) -> None:
    records.create(1, make_attempt())
    assert records.read_state(1) is None
    records.write_status(1, JobStatus(state="running", attempt=1))
    state = records.read_state(1)
    assert state is not None
    assert state.status.state == "running"
    assert state.written_at > 7.0


def test_a_cancel_holds_for_its_attempt_only(records: AttemptRecords) -> None:
    records.create(1, make_attempt())
    records.create(2, make_attempt())
    records.request_cancel(1)
    assert (records.is_cancelled(1), records.is_cancelled(2)) == (True, False)


def test_a_log_is_read_once_over_pieces_and_attempts(records: AttemptRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "LOG_PIECE_BYTES", 16)
    for number in (1, 2):
        records.create(number, make_attempt())
        writer = LogWriter(records, number)
        for step in range(9):
            writer.append(f"attempt {number} step {step}\n".encode())
    expected = [f"attempt {number} step {step}" for number in (1, 2) for step in range(9)]
    lines, cursor = read_all(records)
    assert lines == expected
    LogWriter(records, 2)
    assert read_all(records, cursor) == ([], cursor)


def test_an_incomplete_line_waits_until_its_attempt_is_over(records: AttemptRecords) -> None:
    records.create(1, make_attempt())
    writer = LogWriter(records, 1)
    writer.append(b"whole\nhal")
    lines, cursor = read_all(records)
    assert lines == ["whole"]
    writer.append(b"f")
    assert read_all(records, cursor, finished=True)[0] == ["half"]
    records.create(2, make_attempt())
    assert read_all(records, cursor)[0] == ["half"]


def test_a_progress_bar_shows_its_last_state(records: AttemptRecords) -> None:
    records.create(1, make_attempt())
    LogWriter(records, 1).append(b"1/3\r2/3\r3/3\r\n")
    assert read_all(records)[0] == ["3/3"]
