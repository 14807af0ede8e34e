"""Peak memory of this process so far: of the GPU when it trains on one, else the resident memory."""

import re
from pathlib import Path

import torch

PROCESS_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the figures under their metrics' names, in GiB; empty on a host that does not report it.

    gpu_memory_gib is the peak that torch has allocated; gpu_reserved_gib is the peak that its allocator holds, which
    includes gaps between allocations. The driver's context is extra.
    resident_memory_gib is the kernel's high-water mark of this program, including shared libraries and mapped files
    (getrusage would carry over the mark of the parent that started it).
    """
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return {"gpu_memory_gib": allocated / 2**30, "gpu_reserved_gib": reserved / 2**30}
    resident = _resident_peak_gib()
    return {} if resident is None else {"resident_memory_gib": resident}


def _resident_peak_gib(status: Path = PROCESS_STATUS) -> float | None:
    """VmHWM of the process in GiB; None without such a file or line."""
    if not status.is_file():
        return None
    line = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), flags=re.MULTILINE)
    return int(line[1]) / 2**20 if line else None
