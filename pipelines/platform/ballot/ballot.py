"""State of a ballot while its page is open: the pair to show, the votes, the skipped pairs, and undo."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipelines.platform.ballot.pairs import BallotPair

LEFT, TIE, RIGHT = 1.0, 0.5, 0.0
"""Preferences, as the share of the vote for the left image."""


@dataclass
class Ballot:
    """The pairs of one annotator. Its methods may be called from several threads."""

    project: str
    annotator: str
    pairs: Sequence[BallotPair]
    note: str
    """Sentence for the page on the use of the votes."""
    next_step: str
    """Command that follows when all pairs have a vote."""
    read_image: Callable[[str], bytes]
    record: Callable[[BallotPair, float], bool]
    """Writes a vote and commits it. False when the pair already has the vote of this annotator."""
    withdraw: Callable[[BallotPair], None]
    """Deletes the vote on a pair."""
    voted: set[str] = field(default_factory=set)
    """Keys of the pairs that have a vote."""
    cast: list[int] = field(default_factory=list)
    """Pairs that were voted on or skipped since the start, in order. Undo takes the last one back."""
    _skipped: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_voted(self) -> int:
        """Number of pairs with a vote, those of earlier starts included."""
        return len(self.voted)

    @property
    def num_skipped(self) -> int:
        """Number of pairs that were skipped since the start and have no vote."""
        return len(self._skipped)

    def current(self) -> int | None:
        """Return the position of the pair to show; None when every pair has a vote or was skipped."""
        done = self.voted | self._skipped
        return next((number for number, pair in enumerate(self.pairs) if pair.key not in done), None)

    def vote(self, number: int, preference: float) -> None:
        """Record a vote before the next pair is shown. A pair that has a vote keeps it."""
        pair = self.pairs[number]
        with self._lock:
            if pair.key in self.voted:
                return
            new = self.record(pair, preference)
            self.voted.add(pair.key)
            self._skipped.discard(pair.key)
            if new:
                self.cast.append(number)

    def skip(self, number: int) -> None:
        """Show the pair no more, until the others are done or the program is started again."""
        key = self.pairs[number].key
        with self._lock:
            if key not in self.voted and key not in self._skipped:
                self._skipped.add(key)
                self.cast.append(number)

    def undo(self) -> None:
        """Take back the last vote or skip since the start."""
        with self._lock:
            if not self.cast:
                return
            pair = self.pairs[self.cast[-1]]
            if pair.key in self.voted:
                self.withdraw(pair)
            self.voted.discard(pair.key)
            self._skipped.discard(pair.key)
            self.cast.pop()

    def show_skipped(self) -> None:
        """Show the skipped pairs again."""
        with self._lock:
            self._skipped.clear()
