"""Compute the items of an iterable in a thread, a few ahead of their use."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

POLL_SECONDS = 0.05
"""Longest time that a stopped thread waits for space in the queue before it notices."""
JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class _End:
    """Follows the last item. `error` ended the iterable early."""

    error: Exception | None = None


class Ahead(Iterator[Item], Generic[Item]):
    """Iterate over items that a thread computes in their order, with at most `depth` of them waiting.

    An error of the iterable is raised in place of the item that it prevented, after all items before it, and at every
    later request. Call `close` when no more items are needed.
    """

    def __init__(self, items: Iterable[Item], depth: int) -> None:
        self._queue: queue.Queue[tuple[Item] | _End] = queue.Queue(depth)
        self._end: _End | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(items,), name="ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        """Return the next item, waiting for it if need be."""
        if self._end is None:
            entry = self._queue.get()
            if not isinstance(entry, _End):
                return entry[0]
            self._end = entry
        if self._end.error is not None:
            raise self._end.error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and drop the items that wait. A thread that is blocked in the iterable is left to itself."""
        self._stopped.set()
        self._thread.join(JOIN_SECONDS)
        self._end = self._end or _End()

    def _produce(self, items: Iterable[Item]) -> None:
        end = _End()
        try:
            for item in items:
                if not self._put((item,)):
                    return
        except Exception as error:
            end = _End(error)
        self._put(end)

    def _put(self, entry: tuple[Item] | _End) -> bool:
        """Wait for space and add an entry; False when the reader has stopped."""
        while not self._stopped.is_set():
            try:
                self._queue.put(entry, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
