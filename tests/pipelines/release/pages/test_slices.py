"""Slices: counted from the score table, marked as the gate marked them, drawn to their numbers alone."""

from typing import Any

import pytest

from alignment.evaluation.score_grids import ScoreGrids
from pipelines.contracts import GateCheck
from pipelines.release.evidence import read_grids
from pipelines.release.pages.slice_plot import plot_slices
from pipelines.release.pages.slices import slice_rows

JUDGES = ("taste_a", "taste_b")


def grids(evaluation: Any) -> ScoreGrids:
    """Prompts 0 to 9 are animals, in which the candidate wins 7 of 10 under taste_a; the last prompt stands alone."""
    columns = {name: list(values) for name, values in evaluation.columns.items()}
    columns["category"] = ["animals" if p < 10 else "alone" if p == 199 else "people" for p in columns["prompt_index"]]
    for row, (role, scorer, prompt) in enumerate(
        zip(columns["role"], columns["scorer"], columns["prompt_index"], strict=True)
    ):
        if scorer == "taste_a" and prompt < 10:
            columns["score"][row] = (1.0 if prompt < 7 else -1.0) if role == "candidate" else 0.0
    return read_grids(columns)


def test_a_slice_is_counted_within_itself(good_evaluation: Any, good_decision: Any) -> None:
    rows = slice_rows(good_evaluation.report, good_decision, grids(good_evaluation), scorers=JUDGES)
    assert [(row.name, row.prompts) for row in rows] == [("animals", 10), ("people", 189)]
    cell = rows[0].cells[0]
    assert (cell.counts, cell.win_rate) == ("7 / 0 / 3", "70.0 %")
    # Wilson's interval of 7 in 10 at 95 %.
    assert (cell.low, cell.high) == (pytest.approx(0.3968, abs=1e-3), pytest.approx(0.8922, abs=1e-3))
    assert cell.colour == ""
    assert rows[1].cells[0].colour == "good"


def test_the_gate_marks_the_slice(good_evaluation: Any, good_decision: Any) -> None:
    check = GateCheck(
        name="slice:animals", measured=0.2, required="", passed=False, family="slices", explanation="worse"
    )
    decision = good_decision.model_copy(update={"checks": (*good_decision.checks, check)})
    rows = slice_rows(good_evaluation.report, decision, grids(good_evaluation), scorers=JUDGES)
    assert [(row.mark, row.mark_colour) for row in rows] == [("got worse", "no"), ("", "plain")]


def test_without_categories_or_whole_grids_there_are_no_slices(good_evaluation: Any, good_decision: Any) -> None:
    report = good_evaluation.report
    assert slice_rows(report, good_decision, good_evaluation.scores, scorers=JUDGES) == []
    assert slice_rows(report, good_decision, grids(good_evaluation), scorers=(*JUDGES, "missing")) == []


def test_the_drawing_names_slices_and_judges_and_is_the_same_twice(good_evaluation: Any, good_decision: Any) -> None:
    rows = slice_rows(good_evaluation.report, good_decision, grids(good_evaluation), scorers=JUDGES)
    svg = plot_slices(rows, JUDGES)
    assert svg == plot_slices(rows, JUDGES)
    for text in ("animals  (10)", "people  (189)", *JUDGES):
        assert f"<!-- {text} -->" in svg.decode()
    assert plot_slices(rows[:1], JUDGES) != svg
