"""Time of the phases of a step, on the host and on the device."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

ON_DEVICE = ("forward", "reference", "backward", "optimiser")
"""Phases that are work of the device; `data` and `checkpoint` are work of the host."""


class PhaseClock:
    """Adds up the time of each phase since the last `read`.

    A GPU works behind the host, so its phases are measured by events on its stream, without a synchronisation. A phase
    that the GPU has not finished at a `read` counts in the next one.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._running: list[tuple[str, Any, Any]] = []
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block for a phase; phases do not overlap."""
        if self._on_gpu and name in ON_DEVICE:
            cuda: Any = torch.cuda
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._running.append((name, start, end))
        else:
            started = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - started)

    def read(self) -> tuple[dict[str, float], float]:
        """Return the seconds of each phase, and of wall time, since the last call; start again from zero."""
        waiting = []
        for name, start, end in self._running:
            if end.query():
                self._add(name, start.elapsed_time(end) / 1000)
            else:
                waiting.append((name, start, end))
        seconds, now = self._seconds, time.perf_counter()
        wall = now - self._since
        self._seconds, self._running, self._since = {}, waiting, now
        return seconds, wall

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
