"""Progress of a job: a bar on stderr for people, progress.json for the control plane."""

import sys
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from alignment.contracts.jobs import PROGRESS_FILE, Progress
from alignment.files.durable import write_bytes

WRITE_EVERY_SECONDS = 0.5


class JobProgress:
    """Count finished units out of a total. Only rank 0 shows and writes; on other ranks every call does nothing."""

    def __init__(self, out: Path, *, total: int, unit: str, done: int = 0, enabled: bool = True) -> None:
        self.out = out
        self.total = total
        self.unit = unit
        self.enabled = enabled
        self._written_at = float("-inf")
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit.removesuffix("s"),
            file=sys.stderr,
            disable=not enabled,
            mininterval=1.0,
        )
        self._write(done, "", now=True)

    def update(self, done: int, message: str = "") -> None:
        """Set the number of finished units."""
        if self.enabled:
            self._bar.set_postfix_str(message, refresh=False)
            self._bar.update(done - self._bar.n)
            self._write(done, message, now=done >= self.total)

    def _write(self, done: int, message: str, *, now: bool) -> None:
        if self.enabled and (now or time.monotonic() - self._written_at >= WRITE_EVERY_SECONDS):
            self._written_at = time.monotonic()
            progress = Progress(done=done, total=self.total, unit=self.unit, message=message)
            write_bytes(self.out / PROGRESS_FILE, progress.model_dump_json().encode())

    def __enter__(self) -> "JobProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
