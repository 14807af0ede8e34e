"""Figures of a run: means over the steps since the line before, idle time, use of the card, a line in the log."""

import logging
from typing import Any

import pytest
import torch

from alignment.training.health import run_health
from alignment.training.health.run_health import RunHealth

CPU = torch.device("cpu")


def health(monkeypatch: pytest.MonkeyPatch, *readings: tuple[dict[str, float], float]) -> RunHealth:
    found = RunHealth(CPU)
    rest = iter([({}, 0.0), *readings])
    monkeypatch.setattr(found.clock, "read", lambda: next(rest))
    found.start(4)
    return found


def test_times_are_means_over_the_steps_since_the_line_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"forward": 2.0, "backward": 4.0, "data": 1.0, "checkpoint": 3.0}
    own = health(monkeypatch, (seconds, 10.0), ({"forward": 1.0}, 1.0))
    assert own.read(14) == {
        "health/forward_milliseconds": 200.0,
        "health/backward_milliseconds": 400.0,
        "health/data_milliseconds": 100.0,
        "health/checkpoint_milliseconds": 300.0,
        "health/idle_share": pytest.approx(0.4),
    }
    assert own.read(15) == {"health/forward_milliseconds": 1000.0, "health/idle_share": 0.0}


def test_use_of_a_known_card(monkeypatch: pytest.MonkeyPatch) -> None:
    own = health(monkeypatch, ({}, 10.0))
    assert not own.wants_flops, "the rate of a CPU is not known"
    own._peak = 1e12
    assert own.wants_flops
    own.flops_per_step = 2e11
    assert not own.wants_flops
    assert own.read(24)["health/mfu"] == pytest.approx(20 * 2e11 / 10 / 1e12)


def test_sensors_and_the_log_are_not_asked_at_every_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = [1000.0]
    time: Any = run_health.time
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    own = health(monkeypatch, *[({"forward": 0.5}, 1.0)] * 4)

    class Sensors:
        def read(self) -> dict[str, float]:
            return {"temperature_celsius": 70.0}

    sensors: Any = Sensors()
    own._sensors = sensors
    sensed = []
    for step, seconds in enumerate((0.0, 5.0, 6.0, 60.0), start=5):
        now[0] += seconds
        sensed.append("health/temperature_celsius" in own.read(step))
    assert sensed == [True, False, True, True]
    assert [record.getMessage() for record in caplog.records] == [
        "step 5: forward milliseconds 500, idle share 0.5, temperature celsius 70",
        "step 8: forward milliseconds 500, idle share 0.5, temperature celsius 70",
    ]
