"""Work in threads: bounded, confirmed in order in the caller's thread, with errors raised."""

import threading
from collections.abc import Iterator

import pytest

from alignment.files.background import BackgroundWork, ahead


def test_groups_are_confirmed_in_order_by_the_caller_when_all_their_tasks_are_done() -> None:
    here, log, lock = threading.get_ident(), list[str](), threading.Lock()

    def task(name: str) -> None:
        assert threading.get_ident() != here
        with lock:
            log.append(name)

    def confirm(number: int) -> None:
        assert threading.get_ident() == here
        assert {f"{number}a", f"{number}b"} <= set(log)
        log.append(f"confirmed {number}")

    with BackgroundWork(threads=3) as work:
        for number in range(4):
            tasks = [lambda name=f"{number}{letter}": task(name) for letter in "ab"]
            work.submit(tasks, lambda number=number: confirm(number))
            assert [line for line in log if "confirmed" in line] == [f"confirmed {n}" for n in range(number)]
    assert log[-1] == "confirmed 3"


def test_the_caller_goes_on_while_a_group_runs_and_waits_before_it_has_too_many() -> None:
    release, second = threading.Event(), threading.Event()
    with BackgroundWork(threads=2, pending=2) as work:
        work.submit([lambda: release.wait(60) and None])
        work.submit([second.set])  # returns although the first still runs
        assert second.wait(60)
        assert not release.is_set()
        threading.Timer(0.05, release.set).start()
        work.submit([])
        assert release.is_set(), "the third group had to wait for the first"


def test_an_error_is_raised_by_the_next_group_and_its_group_is_not_confirmed() -> None:
    confirmed: list[int] = []

    def fail() -> None:
        raise OSError("disk full")

    with BackgroundWork(threads=1) as work:
        work.submit([fail], lambda: confirmed.append(0))
        with pytest.raises(OSError, match="disk full"):
            work.submit([], lambda: confirmed.append(1))
    assert confirmed == []


def test_an_error_of_the_last_group_is_raised_at_the_end() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundWork(threads=1) as work:
        work.submit([fail])


def test_an_exception_of_the_caller_ends_the_block_with_no_task_left_running() -> None:
    started, finished, late = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        finished.wait(0.1)
        finished.set()

    def stop_early() -> None:
        with BackgroundWork(threads=1, pending=2) as work:
            work.submit([slow])
            work.submit([late.set])
            assert started.wait(60)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        stop_early()
    assert finished.is_set()
    assert not late.is_set()


def test_results_come_in_order_and_items_are_taken_no_further_ahead_than_the_limit() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = ahead(lambda number: number * number, items(), threads=3, limit=2)
    assert next(results) == 0
    assert taken == [0, 1, 2]
    assert list(results) == [number * number for number in range(1, 10)]


def test_an_error_is_raised_in_the_turn_of_its_item() -> None:
    results = ahead(lambda number: 6 // number, [3, 2, 0, 1], threads=2, limit=4)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_results_that_nobody_asks_for_do_not_keep_threads() -> None:
    before = threading.active_count()
    results = ahead(str, range(100), threads=2, limit=3)
    assert next(results) == "0"
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
