"""Free memory of the host, also inside a container with a limit. Torch-free."""

import re
from pathlib import Path

MEMORY_INFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Control group (version 2) of this process, as a container sees it."""


def free_host_bytes(memory_info: Path = MEMORY_INFO, control_group: Path = CONTROL_GROUP) -> int | None:
    """Return the bytes that a process can still allocate; None on a host that does not report them.

    It is the smaller of what the kernel can free at once and of what the container's limit leaves. Pages of files that
    the kernel may drop count as free in both.
    """
    found = []
    available = _number(memory_info, r"^MemAvailable:\s*(\d+) kB$")
    if available is not None:
        found.append(available * 1024)
    limit, held = (_number(control_group / f"memory.{name}", r"^(\d+)$") for name in ("max", "current"))
    if limit is not None and held is not None:  # a file with "max" has no limit
        found.append(limit - held + (_number(control_group / "memory.stat", r"^inactive_file (\d+)$") or 0))
    return max(0, min(found)) if found else None


def _number(path: Path, pattern: str) -> int | None:
    """Return the number in the file's line of this pattern; None without the file or the line."""
    if not path.is_file():
        return None
    line = re.search(pattern, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return int(line[1]) if line else None
