"""The time left follows the pace of the stages that have ended."""

import pytest

from pipelines.platform.time_left import StageClock, in_words

USUAL = {"platform": 30.0, "ingest": 20.0, "train": 50.0}


def test_before_anything_ended_the_usual_time_is_left() -> None:
    clock = StageClock(USUAL)
    assert clock.seconds_left(0.0) == 100
    clock.begin("platform", 1000.0)
    assert clock.seconds_left(1010.0) == 90


def test_a_host_that_takes_twice_as_long_so_far_does_so_to_the_end() -> None:
    clock = StageClock(USUAL)
    clock.begin("platform", 0.0)
    clock.begin("ingest", 60.0)
    clock.begin("ingest", 61.0)
    assert clock.seconds_left(70.0) == 2 * 50 + 2 * 20 - 10
    clock.begin("train", 100.0)
    assert clock.seconds_left(100.0) == 100
    assert clock.seconds_left(1000.0) == 0, "a stage that takes longer than expected is never below none"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "less than a minute left"), (50, "about 1 min left"), (95, "about 2 min left"), (190, "about 3 min left")],
)
def test_time_is_told_in_whole_minutes(seconds: float, text: str) -> None:
    assert in_words(seconds) == text
