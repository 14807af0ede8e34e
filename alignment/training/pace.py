"""Measured pace of a training, for the plans of later ones."""

import statistics
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import Accelerator

from alignment.contracts.jobs import PACE_FILE, TrainingPace
from alignment.files.durable import write_json
from alignment.training.gradient_checkpointing import largest_of_all

WARM_UP_STEPS = 3
"""First steps of an attempt, which are not measured: they compile, reserve memory and fill caches."""
LEAST_STEPS = 10
"""Measured steps below which an attempt states no pace."""


class PaceMeter:
    """Times the steps of this attempt; those of an earlier one may be of another host or micro-batch."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._device: torch.device = accelerator.device
        self._seconds: list[float] = []
        self._started = 0.0
        self._peak_bytes = 0

    def start(self) -> None:
        """Begin a step."""
        self._started = time.perf_counter()

    def stop(self) -> float:
        """End a step; return its seconds."""
        self._seconds.append(time.perf_counter() - self._started)
        if self._device.type == "cuda":
            self._peak_bytes = torch.cuda.max_memory_reserved(self._device)
        return self._seconds[-1]

    def measured(self, global_batch: int, micro_batch: int, *, checkpointed_every: int) -> TrainingPace | None:
        """Return the pace by the median step of the slowest process. All processes call this together.

        None after too few steps, and if the processes have different devices.
        """
        seconds, processes = self._seconds[WARM_UP_STEPS:], int(self._accelerator.num_processes)
        if len(seconds) < LEAST_STEPS:
            return None
        device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        mark = zlib.crc32(device.encode())
        own = [statistics.median(seconds), self._peak_bytes, mark, -mark]
        step, peak_bytes, highest, lowest = largest_of_all(self._accelerator, own)
        if highest != -lowest:
            return None
        return TrainingPace(
            device=device,
            num_processes=processes,
            micro_batch=min(micro_batch, -(-global_batch // processes)),
            checkpointed_every=checkpointed_every,
            steps=len(seconds),
            pairs_per_second=global_batch / processes / step,
            peak_gib=peak_bytes / 2**30,
            finished_at=datetime.now(UTC),
        )


def keep_pace(out: Path, pace: TrainingPace | None) -> None:
    """Write pace.json beside the result; without a pace remove one that an earlier attempt left."""
    if pace is None:
        (out / PACE_FILE).unlink(missing_ok=True)
    else:
        write_json(out / PACE_FILE, pace.model_dump(mode="json"))
