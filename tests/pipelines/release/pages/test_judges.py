"""Panels of scorers, and the human win rate that a judge's win rate implies."""

import math
from typing import Any

import pytest

from alignment.contracts.calibration import Calibration
from pipelines.release.pages.judges import _bar, attenuation, calibration_row, scorer_panel


def calibration(judge: str, accuracy: float) -> Calibration:
    return Calibration(
        judge=judge, num_pairs=120, num_human_ties=7, accuracy=accuracy, accuracy_low=0.6, accuracy_high=0.8
    )


def with_win_rate(report: Any, rate: float) -> Any:
    changed = [
        c.model_copy(update={"win_rate": rate, "win_rate_low": 0.5, "win_rate_high": 0.62}) for c in report.comparisons
    ]
    return report.model_copy(update={"comparisons": tuple(changed)})


def test_a_judge_of_three_in_four_shows_sixty_as_fifty_five(good_evaluation: Any, good_decision: Any) -> None:
    report = with_win_rate(good_evaluation.report, 0.6)
    row = calibration_row(calibration("taste_a", 0.75), report, good_decision)
    assert (row.shows, row.measured) == ("55.0 %", "60.0 %")
    # (0.6 - 0.25) / 0.5, and the same of 0.5 and 0.62.
    assert (row.implies, row.implies_interval) == ("70.0 %", "50.0 % to 74.0 %")
    assert (row.pairs, row.ties, row.votes) == ("120", "7 ties excluded", True)


def test_a_win_rate_above_the_human_maximum_is_reported(good_evaluation: Any, good_decision: Any) -> None:
    report = with_win_rate(good_evaluation.report, 0.76)
    assert calibration_row(calibration("taste_a", 0.75), report, good_decision).implies == "above 100 %"


def test_a_judge_no_better_than_chance_implies_no_human_win_rate(good_evaluation: Any, good_decision: Any) -> None:
    row = calibration_row(calibration("taste_a", 0.5), good_evaluation.report, good_decision)
    assert row.implies == "unknown"


def test_a_judge_that_the_gate_did_not_use_is_marked(good_evaluation: Any, good_decision: Any) -> None:
    row = calibration_row(calibration("stranger", 0.7), good_evaluation.report, good_decision)
    assert (row.verdict, row.measured, row.votes) == ("The gate did not use this judge.", "-", False)
    assert attenuation(calibration("taste_a", math.nan), good_evaluation.report) is None


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [("taste_a", "judge", "votes"), ("caption_match", "guard", "holds"), ("stranger", "guard", "not used")],
)
def test_a_panel_shows_the_scorers_status(
    good_evaluation: Any, good_decision: Any, name: str, kind: Any, status: str
) -> None:
    panel = scorer_panel(good_evaluation.report, good_decision, name, kind=kind)
    assert panel.status == status
    assert len(panel.bars) == (name != "stranger")


def test_counts_become_shares_and_what_is_not_finite_a_dash(good_evaluation: Any) -> None:
    comparison = good_evaluation.report.comparisons[0].model_copy(
        update={"wins": 100, "ties": 60, "losses": 40, "win_rate": 0.65, "win_rate_low": math.nan}
    )
    drawn = _bar(comparison, "champion")
    assert drawn.counts == (("wins", 100, 50.0), ("ties", 60, 30.0), ("losses", 40, 20.0))
    assert (drawn.low, drawn.rate) == (50.0, 65.0)
    assert drawn.interval.startswith("- to ")
