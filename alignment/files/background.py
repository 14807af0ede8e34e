"""Threads that work while the caller computes: bounded, in order, with errors raised in the caller. Torch-free."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class BackgroundWork:
    """Run groups of tasks in threads; each group is confirmed in the caller's thread, in order, once it is done.

    At most `pending` groups are unconfirmed while the caller prepares the next one, so memory stays bounded. An error
    of a task is raised by the next `submit` or at the end of the block, and its group and later ones are not confirmed.
    When the block ends, every task has finished; if an exception ends it, tasks that have not begun are dropped.
    """

    def __init__(self, *, threads: int, pending: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._pending = pending
        self._groups: deque[tuple[list[Future[None]], Callable[[], None]]] = deque()

    def submit(self, tasks: Iterable[Callable[[], None]], confirm: Callable[[], None] = lambda: None) -> None:
        """Start a group of tasks. Waits while too many groups are pending; `confirm` is called when all are done."""
        while len(self._groups) >= self._pending:
            self._confirm_first()
        self._groups.append(([self._pool.submit(task) for task in tasks], confirm))

    def _confirm_first(self) -> None:
        futures, confirm = self._groups.popleft()
        for future in futures:
            future.result()
        confirm()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._groups:
                self._confirm_first()
        finally:
            self._pool.shutdown(cancel_futures=True)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, limit: int) -> Iterator[Result]:
    """Yield `function` of each item, in order, computed in threads for up to `limit` items before they are asked for.

    The items themselves are made in the caller's thread. An error of the function is raised in the item's turn.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
