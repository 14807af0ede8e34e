"""A GPU's sensors, read from a driver that the test plays; hosts without GPU, library or driver."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignment.training.health import sensors
from alignment.training.health.sensors import GpuSensors, open_sensors

GPU = torch.device("cuda")


class DriverError(Exception):
    """The library's error."""


class Driver:
    """The part of pynvml that is used here."""

    NVMLError = DriverError
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80

    def __init__(self) -> None:
        self.celsius, self.reasons, self.errors, self.corrects = 60, 0, 0, True
        self.works = True

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.works:
            raise DriverError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:  # noqa: N802
        if not self.works:
            raise DriverError("GPU is lost")
        return self.celsius

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return self.reasons

    def nvmlDeviceGetTotalEccErrors(self, handle: str, kind: int, since: int) -> int:  # noqa: N802
        if not self.corrects:
            raise DriverError("Not Supported")
        return self.errors


def test_a_card_that_throttles_is_named_once_and_again_after_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    card = GpuSensors(driver, "gpu")
    assert card.read() == {"temperature_celsius": 60.0, "throttled": 0.0, "memory_errors": 0.0}
    driver.reasons, driver.celsius = 0x4, 80  # at its power limit
    assert card.read()["throttled"] == 0
    for reasons in (0x40, 0x44, 0, 0x80):
        driver.reasons = reasons
        card.read()
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "(HwThermalSlowdown) at 80 degrees Celsius" in warnings[0]
    assert "HwPowerBrakeSlowdown" in warnings[1]


def test_only_new_memory_errors_are_named(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    driver.errors = 7
    card = GpuSensors(driver, "gpu")
    card.read()
    assert caplog.records == [], "they are from before the run"
    driver.errors = 9
    assert card.read()["memory_errors"] == 9
    card.read()
    assert ["had 2 uncorrected errors" in record.getMessage() for record in caplog.records] == [True]


def test_a_card_without_error_correction_or_that_is_lost_reports_what_it_can() -> None:
    driver = Driver()
    driver.corrects = False
    card = GpuSensors(driver, "gpu")
    assert set(card.read()) == {"temperature_celsius", "throttled"}
    driver.works = False
    assert card.read() == {}


def opened(monkeypatch: pytest.MonkeyPatch, driver: Any) -> GpuSensors | None:
    def load(name: str) -> Any:
        assert name == "pynvml"
        if driver is None:
            raise ModuleNotFoundError(name)
        return driver

    monkeypatch.setattr(sensors.importlib, "import_module", load)
    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    return open_sensors(GPU)


def test_hosts_without_gpu_library_or_driver_have_no_sensors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert open_sensors(torch.device("cpu")) is None
    assert opened(monkeypatch, None) is None
    broken = Driver()
    broken.works = False
    assert opened(monkeypatch, broken) is None
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "GPU sensors are not read: nvidia-ml-py is not installed.",
        "GPU sensors are not read: Driver Not Loaded",
    ]
    card = opened(monkeypatch, Driver())
    assert card is not None
    assert card._handle == "GPU-1-2"
