"""Slices: counted from the score table, marked as the gate marked them, drawn to their numbers alone."""

from typing import Any
from xml.etree import ElementTree

import pytest

from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import GateCheck
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.pages.slice_plot import plot_slices
from pipelines.release.pages.slices import SliceRow, _SliceCell, slice_rows

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
    check = GateCheck(kind="slice", subject="animals", measured=0.2, passed=False, family="slices", explanation="worse")
    decision = good_decision.model_copy(update={"checks": (*good_decision.checks, check)})
    rows = slice_rows(good_evaluation.report, decision, grids(good_evaluation), scorers=JUDGES)
    assert [(row.mark, row.mark_colour) for row in rows] == [("got worse", "no"), ("", "plain")]


def test_without_categories_or_whole_grids_there_are_no_slices(good_evaluation: Any, good_decision: Any) -> None:
    report = good_evaluation.report
    assert slice_rows(report, good_decision, good_evaluation.scores, scorers=JUDGES) == []
    assert slice_rows(report, good_decision, grids(good_evaluation), scorers=(*JUDGES, "missing")) == []


def test_the_drawing_names_slices_and_judges_and_is_the_same_twice(good_evaluation: Any, good_decision: Any) -> None:
    rows = slice_rows(good_evaluation.report, good_decision, grids(good_evaluation), scorers=JUDGES)
    svg = plot_slices(rows, JUDGES, "champion")
    assert svg == plot_slices(rows, JUDGES, "champion")
    for text in ("animals  (10)", "people  (189)", *JUDGES):
        assert f">{text}</text>" in svg.decode()
    assert plot_slices(rows[:1], JUDGES, "champion") != svg


def drawn_names(*names: str) -> list[str]:
    """Return the text of the slice plot with these names, as a browser shows it."""
    cell = _SliceCell(counts="", win_rate="", interval="", low=0.4, rate=0.5, high=0.6, colour="")
    rows = [SliceRow(name=name, prompts=9, cells=(cell,), mark="", mark_colour="") for name in names]
    svg = ElementTree.fromstring(plot_slices(rows, ["taste_a"], "champion"))
    return [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    "name",
    [r"$\frac$", "50 $ to 60 $", "x_1^2", "\u65e5\u672c\u8a9e", "\u0645\u0631\u062d\u0628\u0627", "<b> & -- ]]>"],
)
def test_a_slice_is_drawn_under_the_very_name_that_it_has(name: str) -> None:
    """It is neither mathematics nor markup, and any script is left to the reader's fonts."""
    assert f"{name}  (9)" in drawn_names("plain", name)


def test_long_names_are_cut_and_stand_on_one_line() -> None:
    found = drawn_names("a" * 90, "\u65e5" * 90, "two\nlines\x0b\x00of \u202etext")
    assert [text for text in found if text.endswith("(9)")] == [
        "a" * 35 + "\u2026  (9)",
        "\u65e5" * 17 + "\u2026  (9)",
        "two lines of text  (9)",
    ]


def test_wide_letters_find_room_on_the_left() -> None:
    """Seventeen letters of an em are 170 points, though the font that measures them has none of them."""
    cell = _SliceCell(counts="", win_rate="", interval="", low=0.4, rate=0.5, high=0.6, colour="")

    def left_of_axes(name: str) -> float:
        row = SliceRow(name=name, prompts=9, cells=(cell,), mark="", mark_colour="")
        svg = ElementTree.fromstring(plot_slices([row], ["taste_a"], "champion"))
        texts = svg.iter("{http://www.w3.org/2000/svg}text")
        return next(float(text.get("x", 0)) for text in texts if (text.text or "").endswith("(9)"))

    assert 190 < left_of_axes("\u65e5" * 17) < 240
