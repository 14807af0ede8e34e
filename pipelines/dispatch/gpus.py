"""The GPUs of this host, as its driver reports them."""

import re
import shutil
import subprocess

NVIDIA_SMI_SECONDS = 10


def list_gpus() -> list[str]:
    """Return name and memory of each GPU; empty without a driver. ValueError when the driver fails or is silent."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"nvidia-smi did not respond within {NVIDIA_SMI_SECONDS} s.") from error
    if done.returncode != 0:
        raise ValueError(f"nvidia-smi failed: {(done.stderr or done.stdout).strip()[:200]}")
    return done.stdout.strip().splitlines()


def gpu_memory_gib() -> float | None:
    """Return the memory of the smallest GPU of this host; None without one. ValueError as `list_gpus`."""
    found = [re.search(r"(\d+) MiB", line) for line in list_gpus()]
    return min((int(size[1]) / 1024 for size in found if size), default=None)
