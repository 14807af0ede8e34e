"""Time is counted for the phase that took it, and once; a GPU's unfinished work counts later."""

from typing import Any

import pytest
import torch

from alignment.training.health import phases
from alignment.training.health.phases import PhaseClock


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(phases.time, "perf_counter", found)
    return found


def test_phases_add_up_until_they_are_read(clock: Time) -> None:
    watch = PhaseClock()
    for seconds in (1.0, 2.0):
        with watch.phase("forward"):
            clock.now += seconds
        clock.now += 0.5
    with watch.phase("data"):
        clock.now += 4.0
    assert watch.read() == ({"forward": 3.0, "data": 4.0}, 8.0)
    clock.now += 2.0
    assert watch.read() == ({}, 2.0)


def test_a_phase_that_fails_is_not_counted(clock: Time) -> None:
    watch = PhaseClock()
    with pytest.raises(ValueError, match="no"), watch.phase("forward"):
        raise ValueError("no")
    assert watch.read()[0] == {}


class Event:
    """An event of a stream that reaches it when the test sets its time."""

    made: list["Event"] = []  # noqa: RUF012 - emptied by each test

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None
        self.recorded = False
        Event.made.append(self)

    def record(self) -> None:
        self.recorded = True

    def query(self) -> bool:
        return self.at is not None

    def elapsed_time(self, end: "Event") -> float:
        assert self.at is not None
        assert end.at is not None
        return end.at - self.at


def test_a_gpu_is_timed_by_its_own_events_and_unfinished_work_waits(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    Event.made.clear()
    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "Event", Event)
    watch = PhaseClock(torch.device("cuda"))
    for name in ("forward", "optimiser"):
        with watch.phase(name):
            clock.now += 1.0
    with watch.phase("data"):
        clock.now += 3.0
    assert all(event.recorded for event in Event.made)
    start, end, later_start, later_end = Event.made
    start.at, end.at, later_start.at = 0.0, 250.0, 260.0
    assert watch.read() == ({"data": 3.0, "forward": 0.25}, 5.0), "milliseconds of the device, not of the host"
    later_end.at = 300.0
    assert watch.read()[0] == {"optimiser": pytest.approx(0.04)}
