"""Numbers and verdicts in words."""

import math
from typing import Any

import pytest

from pipelines.release.pages.wording import _consequence, bounds, duration, number, pair_counts, percent


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.1235"), (1234567.0, "1.235e+06"), (None, "-"), (math.nan, "-"), (math.inf, "-")]
)
def test_a_number_has_four_digits_or_a_dash(value: float | None, text: str) -> None:
    assert number(value) == text


def test_pairs_are_counted_with_their_meaning(make_snapshot: Any) -> None:
    snapshot = make_snapshot(num_pairs={"train": 387, "calibration": 130, "test": 82}, num_prompts=9)
    rest = "130 for calibration, 82 for test"
    assert pair_counts(snapshot, None) == f"599 accepted pairs: 387 for training, {rest}"
    learnt = "387 for training (353 of them with a preference, which the model learnt from)"
    assert pair_counts(snapshot, 353) == f"599 accepted pairs: {learnt}, {rest}"
    assert pair_counts(snapshot, 387) == pair_counts(snapshot, 0) == pair_counts(snapshot, None)


def test_shares_and_their_bounds() -> None:
    assert percent(0.5449) == "54.5 %"
    assert percent(math.nan) == "-"
    assert bounds(0.25, 1.0) == "25.0 % to 100.0 %"


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (89, "89 s"), (150, "2 min"), (3 * 3600 + 300, "3 h 05 min")]
)
def test_time_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("verdict", "mode", "version", "text"),
    [
        ("promote", "enforce", 3, "It may become the champion."),
        (
            "promote",
            "dry_run",
            3,
            "It would become the champion if the gate were enforced. The gate is in dry-run mode: no alias",
        ),
        ("hold", "enforce", 3, "The champion stays."),
        ("invalid", "off", None, "The base model stays in use. The gate is off."),
    ],
)
def test_what_follows(good_decision: Any, verdict: Any, mode: Any, version: Any, text: str) -> None:
    changed = good_decision.model_copy(update={"verdict": verdict, "mode": mode, "champion_version": version})
    assert _consequence(changed).startswith(text)
