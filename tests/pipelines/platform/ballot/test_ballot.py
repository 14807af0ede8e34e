"""Votes, skips and undo of a ballot."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.platform.ballot.ballot import LEFT, RIGHT, TIE
from pipelines.platform.ballot.pairs import BallotPair


def test_pairs_come_in_order_and_each_vote_is_written_before_the_next(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of(3)
    ballot = written.ballot
    for number, preference in enumerate((LEFT, TIE, RIGHT)):
        assert ballot.current() == number
        ballot.vote(number, preference)
        assert written.votes[-1] == (ballot.pairs[number].key, preference)
    assert ballot.current() is None
    assert ballot.num_voted == 3


def test_a_second_vote_on_a_pair_is_not_written(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    barrier, record = threading.Barrier(8), written.ballot.record

    def slowly(pair: BallotPair, preference: float) -> bool:
        time.sleep(0.05)
        return bool(record(pair, preference))

    written.ballot.record = slowly

    def click() -> None:
        barrier.wait()
        written.ballot.vote(0, LEFT)

    clicks = [threading.Thread(target=click) for _ in range(8)]
    for click_thread in clicks:
        click_thread.start()
    for click_thread in clicks:
        click_thread.join()
    written.ballot.vote(0, RIGHT)
    assert written.votes == [(written.ballot.pairs[0].key, LEFT)]
    assert (written.ballot.current(), written.ballot.num_voted, written.ballot.cast) == (1, 1, [0])


def test_a_vote_that_could_not_be_written_leaves_the_pair(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of()
    written.fault = ValueError("disk full")
    with pytest.raises(ValueError, match="disk full"):
        written.ballot.vote(0, LEFT)
    assert (written.ballot.current(), written.ballot.num_voted, written.ballot.cast) == (0, 0, [])


def test_votes_of_an_earlier_start_are_not_asked_for_again_and_not_undone(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of(3)
    written.ballot.voted = {written.ballot.pairs[0].key}
    assert (written.ballot.current(), written.ballot.num_voted) == (1, 1)
    written.ballot.undo()
    assert (written.withdrawn, written.ballot.num_voted) == ([], 1)


def test_skipped_pairs_come_back_on_request(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of(2)
    ballot = written.ballot
    ballot.skip(0)
    ballot.skip(0)
    ballot.vote(1, TIE)
    assert (ballot.current(), ballot.num_skipped, ballot.num_voted) == (None, 1, 1)
    ballot.show_skipped()
    assert (ballot.current(), ballot.num_skipped) == (0, 0)
    ballot.vote(0, LEFT)
    assert ballot.current() is None
    assert [key for key, _ in written.votes] == [ballot.pairs[1].key, ballot.pairs[0].key]


def test_undo_takes_back_the_last_vote_or_skip(ballot_of: Callable[..., Any]) -> None:
    written = ballot_of(3)
    ballot = written.ballot
    ballot.vote(0, LEFT)
    ballot.skip(1)
    ballot.undo()
    assert (ballot.current(), written.withdrawn) == (1, []), "a skip was not written"
    ballot.undo()
    assert (ballot.current(), written.withdrawn, ballot.num_voted) == (0, [ballot.pairs[0].key], 0)
    ballot.undo()
    ballot.vote(0, RIGHT)
    assert written.votes == [(ballot.pairs[0].key, LEFT), (ballot.pairs[0].key, RIGHT)]
