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


def stop_message(done: int, saved: int) -> str:
    """Name the step from which the next attempt continues, and the steps that it repeats."""
    kept = f"checkpointed at step {saved}" if saved else "without a checkpoint"
    lost = done - saved
    repeated = f" after step {done}, so it repeats {lost} step{'s' * (lost > 1)}" if lost else ""
    return f"Stopped by SIGTERM{repeated}; {kept}. Run the job again to continue."
