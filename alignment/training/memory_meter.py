"""Measure the memory of a pass: of the GPU by its allocator, elsewhere by the tensors that autograd keeps."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

HOST_MEMORY = Path("/proc/meminfo")
_SPARE = 0.92
"""Share of the free memory that a pass may use: the allocator needs room between its blocks."""


@dataclass(frozen=True)
class Reading:
    """Time and memory of a pass."""

    seconds: float
    peak_bytes: float


class Meter(Protocol):
    """Measures passes against the memory of this process's device."""

    def available(self) -> float:
        """Return the bytes that the peak of a pass may reach."""
        ...

    def measure(self, work: Callable[[], object]) -> Reading:
        """Run `work` and measure it. torch.OutOfMemoryError is the caller's to handle."""
        ...


def meter_of(device: torch.device) -> Meter:
    """Return the meter of a device."""
    return _GpuMeter(device) if device.type == "cuda" else HostMeter(_host_available())


class _GpuMeter:
    """Peak of torch's allocator. Other processes on the card count as taken."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def available(self) -> float:
        free, _ = torch.cuda.mem_get_info(self.device)
        return _SPARE * (free + torch.cuda.memory_reserved(self.device))

    def measure(self, work: Callable[[], object]) -> Reading:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(self.device)
        return Reading(time.perf_counter() - started, torch.cuda.max_memory_allocated(self.device))


class HostMeter:
    """Bytes that autograd keeps in a pass, which is the part that grows with a micro-batch.

    A pass that keeps more than `limit_bytes` raises torch.OutOfMemoryError, as a GPU would.
    """

    def __init__(self, limit_bytes: float) -> None:
        self.limit_bytes = limit_bytes

    def available(self) -> float:
        """Return the limit."""
        return self.limit_bytes

    def measure(self, work: Callable[[], object]) -> Reading:
        """Run `work` and add up the distinct storages that are kept."""
        seen: set[int] = set()
        total = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal total
            storage = tensor.untyped_storage()
            total += storage.nbytes() * (storage.data_ptr() not in seen)
            seen.add(storage.data_ptr())
            if total > self.limit_bytes:
                raise torch.OutOfMemoryError(f"A pass keeps more than {self.limit_bytes / 2**30:.3g} GiB.")
            return tensor

        started = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            work()
        return Reading(time.perf_counter() - started, total)


def _host_available(meminfo: Path = HOST_MEMORY) -> float:
    """Return the memory that the kernel can give without swapping, less a share; no limit where it is not reported."""
    line = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE) if meminfo.is_file() else None
    return _SPARE * int(line[1]) * 1024 if line else float("inf")
