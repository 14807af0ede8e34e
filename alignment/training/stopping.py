"""Turn SIGTERM into a request: the loop ends at the next step boundary."""

import signal
from types import FrameType, TracebackType


class StopSignal:
    """While entered, SIGTERM only sets `requested`. Use it in the main thread."""

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __enter__(self) -> "StopSignal":
        self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._previous)
