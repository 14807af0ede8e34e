"""The level of one test among the tries of a quarter."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from alignment.statistics.tries import Tries, level_of_try, quarter_of


def test_the_levels_of_a_quarter_without_promotions_sum_to_the_budget() -> None:
    levels = [level_of_try(0.05, Tries("2026-Q4", earlier)) for earlier in range(10_000)]
    assert levels[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    assert 0.0499 < sum(levels) <= 0.05


def test_a_promotion_adds_the_level_once_more() -> None:
    assert level_of_try(0.05, Tries("2026-Q4", 5, 1)) == 2 * level_of_try(0.05, Tries("2026-Q4", 5))


@pytest.mark.parametrize(
    ("moment", "quarter"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-Q1"),
        (datetime(2026, 3, 31, 23, 59, tzinfo=UTC), "2026-Q1"),
        (datetime(2026, 11, 28, tzinfo=UTC), "2026-Q4"),
        (datetime(2027, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2026-Q4"),
    ],
)
def test_quarters_are_those_of_utc(moment: datetime, quarter: str) -> None:
    assert quarter_of(moment) == quarter
