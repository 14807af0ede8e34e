"""Read a GPU's temperature, throttling and memory errors from its driver, through nvidia-ml-py."""

import importlib
import logging
from typing import Any

import torch

logger = logging.getLogger(__name__)

LIBRARY = "pynvml"
"""Module of the package nvidia-ml-py."""
THERMAL = ("SwThermalSlowdown", "HwThermalSlowdown")
POWER = ("HwPowerBrakeSlowdown",)
"""Names of the driver's reasons for a low clock that no load explains. A card at its power limit is not among them,
because that is the usual state of a busy one."""


class GpuSensors:
    """The sensors of one GPU. `read` warns once when the card starts to throttle, and at every new memory error."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle
        self._throttled = False
        self._errors = self._memory_errors() or 0

    def read(self) -> dict[str, float]:
        """Return `temperature_celsius`, `throttled` (1 or 0) and `memory_errors` (uncorrected, since the driver was
        loaded), each where the card reports it.
        """
        found: dict[str, float] = {}
        try:
            kind = self._library.NVML_TEMPERATURE_GPU
            found["temperature_celsius"] = float(self._library.nvmlDeviceGetTemperature(self._handle, kind))
            found["throttled"] = float(self._is_throttled(found["temperature_celsius"]))
        except self._library.NVMLError as error:
            logger.debug("The driver reports no temperature or clocks: %s", error)
        if (errors := self._memory_errors()) is not None:
            found["memory_errors"] = float(errors)
            self._warn_of_errors(errors)
        return found

    def _is_throttled(self, celsius: float) -> bool:
        reasons = int(self._library.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        active = [name for name in (*THERMAL, *POWER) if reasons & self._bit(name)]
        if active and not self._throttled:
            logger.warning(
                "The GPU lowers its clock (%s) at %.0f degrees Celsius, so steps take longer. Check its cooling and"
                " power supply.",
                ", ".join(active),
                celsius,
            )
        self._throttled = bool(active)
        return self._throttled

    def _bit(self, name: str) -> int:
        return int(getattr(self._library, f"nvmlClocksThrottleReason{name}"))

    def _memory_errors(self) -> int | None:
        """Return uncorrected errors of the GPU's memory; None for a card without error correction."""
        library = self._library
        try:
            kind, since = library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, library.NVML_VOLATILE_ECC
            return int(library.nvmlDeviceGetTotalEccErrors(self._handle, kind, since))
        except library.NVMLError:
            return None

    def _warn_of_errors(self, errors: int) -> None:
        if errors > self._errors:
            logger.warning(
                "The GPU's memory had %d uncorrected errors since the last look; results since then may be wrong. Move"
                " the job to another GPU and start it from its last checkpoint.",
                errors - self._errors,
            )
        self._errors = errors


def open_sensors(device: torch.device) -> GpuSensors | None:
    """Return the sensors of a device; None on a CPU, without nvidia-ml-py, and where the driver does not answer."""
    if device.type != "cuda":
        return None
    try:
        library = importlib.import_module(LIBRARY)
    except ModuleNotFoundError:
        logger.info("GPU sensors are not read: nvidia-ml-py is not installed.")
        return None
    try:
        library.nvmlInit()
        # By its id: the driver's numbers of GPUs ignore CUDA_VISIBLE_DEVICES.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return GpuSensors(library, library.nvmlDeviceGetHandleByUUID(uuid))
    except library.NVMLError as error:
        logger.info("GPU sensors are not read: %s", error)
        return None
