"""A category has drifted if its share moved by five points or more."""

from typing import Any

import pytest

from pipelines.contracts.data_report import AgreementFigures, DataFigures
from pipelines.intake.report.drift import MINIMUM_MOVE, drift
from pipelines.intake.report.figures import MOST_CATEGORIES


def figures(**counts: dict[str, int]) -> DataFigures:
    return DataFigures(
        num_pairs=1,
        counts={name: {category: {"train": n} for category, n in found.items()} for name, found in counts.items()},
        num_annotators=0,
        num_unnamed=1,
        annotators=(),
        agreement=AgreementFigures(num_comparisons=0, num_labels=0, agreement=None, by_chance=None),
    )


def rows(before: DataFigures, now: DataFigures) -> list[tuple[Any, ...]]:
    return [(r.property, r.category, r.share_before, r.share_now, r.has_drifted) for r in drift(before, now)]


def test_shares_are_compared_and_not_numbers() -> None:
    assert rows(figures(source={"a": 10, "b": 10}), figures(source={"a": 500, "b": 500})) == []


def test_the_largest_change_comes_first_and_five_points_are_drift() -> None:
    before = figures(source={"a": 50, "b": 50}, label={"tie": 100, "first": 900})
    now = figures(source={"a": 55, "b": 45}, label={"tie": 149, "first": 851})
    found = rows(before, now)
    assert [(r[0], r[1], r[4]) for r in found] == [
        ("source", "a", True),
        ("source", "b", True),
        ("label", "first", False),
        ("label", "tie", False),
    ]
    assert found[0][2:4] == (0.5, pytest.approx(0.55))
    assert [(r.num_before, r.num_now) for r in drift(before, now)][:2] == [(50, 55), (50, 45)]


def test_a_category_that_came_or_left_has_a_share_of_zero() -> None:
    found = rows(figures(generator={"old": 1}), figures(generator={"new": 1}))
    assert found == [("generator", "new", 0.0, 1.0, True), ("generator", "old", 1.0, 0.0, True)]


def test_a_property_that_only_one_report_has_is_not_compared() -> None:
    assert rows(figures(source={"a": 1}), figures(source={"a": 1}, votes={"many": 3})) == []


def test_a_category_that_is_not_listed_is_too_rare_to_drift() -> None:
    assert 1 / (MOST_CATEGORIES + 1) < MINIMUM_MOVE
