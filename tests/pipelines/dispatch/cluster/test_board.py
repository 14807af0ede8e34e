"""Orders and causes on the board of an attempt."""

import pytest

from alignment.contracts.jobs import Progress
from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch.cluster.board import Board

CRASHED = JobStatus(state="failed", failure_kind="crashed", message="first")
PREEMPTED = JobStatus(state="preempted", failure_kind="preempted", message="SIGTERM")


def test_lines_of_higher_ranks_carry_their_rank_and_news_are_taken_once() -> None:
    board = Board()
    assert not board.take().started
    board.report("g", 0, 2, b"one\n", Progress(done=1, total=2, unit="steps"))
    board.report("g", 1, 2, b"two\nthree\n", Progress(done=9, total=9, unit="shards"))
    news = board.take()
    assert news.log == b"one\n[rank 1] two\n[rank 1] three\n"
    assert news.progress == Progress(done=1, total=2, unit="steps")
    assert news.started
    assert board.take().log == b""


def test_the_first_failure_is_the_cause_and_ends_the_others() -> None:
    board = Board()
    board.report("g", 0, 2, b"", None)
    board.end(1, CRASHED)
    assert board.report("g", 0, 2, b"", None) == "kill"
    board.end(0, CRASHED.model_copy(update={"message": "it follows"}))
    cause = board.take().cause
    assert cause is not None
    assert cause.message == "first"


def test_a_preempted_rank_lets_the_others_save() -> None:
    board = Board()
    board.end(1, PREEMPTED)
    assert board.report("g", 0, 2, b"", None) == "preempt"


def test_success_of_rank_0_is_the_success_of_the_job() -> None:
    board = Board()
    board.end(1, JobStatus(state="succeeded"))
    assert not board.take().finished
    board.end(0, JobStatus(state="succeeded"))
    assert board.take().finished
    assert board.report("g", 1, 2, b"", None) == "kill"


def test_a_pause_is_for_one_group_and_waits_for_all_its_ranks() -> None:
    board = Board()
    assert board.is_paused(), "there is no group to wait for"
    board.report("first", 0, 2, b"", None)
    board.pause()
    assert [board.report("first", rank, 2, b"", None) for rank in (0, 1)] == ["pause", "pause"]
    board.paused("first", 0)
    assert not board.is_paused()
    board.paused("first", 1)
    assert board.is_paused()
    assert board.report("second", 0, 1, b"", None) == ""


def test_a_pause_does_not_wait_for_a_rank_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    board, now = Board(), [100.0]
    monkeypatch.setattr("pipelines.dispatch.cluster.board.time.monotonic", lambda: now[0])
    for rank in (0, 1):
        board.report("g", rank, 2, b"", None)
    board.pause()
    now[0] += 14
    board.report("g", 0, 2, b"", None)
    assert not board.is_paused()
    now[0] += 2
    assert not board.is_paused(), "rank 0 is alive and has not saved its work"
    board.paused("g", 0)
    assert board.is_paused(), "rank 1 is gone"


def test_an_order_for_good_outlives_a_group() -> None:
    board = Board()
    board.report("first", 0, 1, b"", None)
    board.give("cancel")
    assert board.report("second", 0, 1, b"", None) == "cancel"
