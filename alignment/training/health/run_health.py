"""Figures of a run's health, for metrics.jsonl and for the log."""

import logging
import time

import torch

from alignment.contracts.jobs import HEALTH
from alignment.training.health.model_flops import peak_rate
from alignment.training.health.phases import ON_DEVICE, PhaseClock
from alignment.training.health.sensors import open_sensors

logger = logging.getLogger(__name__)

SENSORS_EVERY_SECONDS = 10.0
"""A call of the driver takes milliseconds."""
LOG_EVERY_SECONDS = 60.0


class RunHealth:
    """The health of this process's part of a run.

    `flops_per_step` are the operations that the model needs in this process's share of a step; `wants_flops` is True
    while they are missing and the rate of the card is known.
    """

    def __init__(self, device: torch.device) -> None:
        self.clock = PhaseClock(device)
        self.flops_per_step: float | None = None
        self._peak = peak_rate(device)
        self._sensors = open_sensors(device)
        self._sensed_at = self._logged_at = -LOG_EVERY_SECONDS
        self._last_step = 0

    @property
    def wants_flops(self) -> bool:
        """Return True if `flops_per_step` should be set."""
        return self._peak is not None and self.flops_per_step is None

    def start(self, step: int) -> None:
        """Begin to measure, after `step` steps; what came before is not counted."""
        self.clock.read()
        self._last_step = step

    def read(self, step: int) -> dict[str, float]:
        """Return the metrics since the last call, under their names with `HEALTH`, and log them once a minute.

        `PHASE_milliseconds` are means over those steps; `checkpoint` is spread over them as well. `idle_share` is the
        share of the wall time in which the device had no work of a phase of the step. A GPU may also wait inside
        a phase, so it is a lower bound there. `mfu` counts the operations that the model needs, against the card's
        dense bf16 rate.
        """
        steps, self._last_step = max(1, step - self._last_step), step
        seconds, wall = self.clock.read()
        found = {f"{name}_milliseconds": 1000 * spent / steps for name, spent in seconds.items()}
        busy = sum(spent for name, spent in seconds.items() if name in ON_DEVICE)
        found["idle_share"] = max(0.0, 1 - busy / wall)
        if self._peak is not None and self.flops_per_step is not None:
            found["mfu"] = self.flops_per_step * steps / wall / self._peak
        found |= self._sense()
        self._log(step, found)
        return {f"{HEALTH}{name}": value for name, value in found.items()}

    def _sense(self) -> dict[str, float]:
        now = time.monotonic()
        if self._sensors is None or now - self._sensed_at < SENSORS_EVERY_SECONDS:
            return {}
        self._sensed_at = now
        return self._sensors.read()

    def _log(self, step: int, found: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self._logged_at < LOG_EVERY_SECONDS:
            return
        self._logged_at = now
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in sorted(found.items()))
        logger.info("step %d: %s", step, shown)
