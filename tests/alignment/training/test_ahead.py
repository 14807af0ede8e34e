"""Items computed ahead in a thread: their order, the bound, errors and the end."""

import threading
from collections.abc import Iterator

import pytest

from alignment.training.ahead import Ahead


def test_items_come_in_order_and_then_end() -> None:
    ahead = Ahead(range(20), 3)
    assert list(ahead) == list(range(20))
    assert list(ahead) == [], "an ended iterator stays ended"
    ahead.close()


def test_no_more_items_are_computed_than_may_wait() -> None:
    computed: list[int] = []
    blocked = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            computed.append(number)
            if len(computed) == 4:
                blocked.set()
            yield number

    ahead = Ahead(items(), 2)
    assert next(ahead) == 0
    assert blocked.wait(20), "the one taken, the two that wait, and the one for which there is no space"
    ahead.close()
    assert computed == [0, 1, 2, 3]
    assert not ahead._thread.is_alive()


def test_an_error_is_raised_at_the_item_that_it_prevented_and_ever_after() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("pair 3 is damaged")

    ahead = Ahead(items(), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="pair 3 is damaged"):
            next(ahead)
    ahead.close()


def test_closing_stops_a_thread_that_waits_for_space_and_one_that_has_ended() -> None:
    waiting, ended = Ahead(iter(int, 1), 1), Ahead([1], 5)
    for ahead in (waiting, ended):
        ahead.close()
        ahead.close()
        assert not ahead._thread.is_alive()
        assert list(ahead) == [], "what waited is dropped"
