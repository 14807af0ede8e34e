"""Summaries for a person at a terminal."""

from typing import Any

import pytest

from pipelines.commands.tables import print_rows, print_summary

DIGEST = "4fc8b8d3e5d3" + "0" * 52


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "80")

    def show(value: Any, *columns: str) -> list[str]:
        print_summary(value, columns)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]

    return show


def test_fields_are_a_grid_and_digests_are_short(shown: Any) -> None:
    value = {"schema_version": 1, "project": "a", "champion": {"version": 2, "weights_digest": DIGEST}, "last": None}
    assert shown({**value, "problems": [], "seeds": [0, 1], "share": 0.123456, "agrees_with_aliases": False}) == [
        "project              a",
        "champion             version         2",
        "                     weights digest  4fc8b8d3e5d3",
        "last                 -",
        "problems             none",
        "seeds                0, 1",
        "share                0.1235",
        "agrees with aliases  no",
    ]


def test_records_are_a_table_of_the_columns_asked_for(shown: Any) -> None:
    checks = [
        {"name": "win_rate", "measured": 0.71, "passed": True, "family": "judges"},
        {"name": "power", "measured": None, "passed": False, "family": "evidence"},
    ]
    lines = shown({"verdict": "hold", "checks": checks}, "name", "measured", "passed")
    assert lines[:2] == ["verdict  hold", "Checks"]
    assert lines[2].split() == ["name", "measured", "passed"]
    assert [line.split() for line in lines[4:]] == [["win_rate", "0.71", "yes"], ["power", "-", "no"]]


def test_records_without_those_columns_show_what_fits(shown: Any) -> None:
    records = [{"rule": "labelled", "failed": 0, "note": "", "report_uri": "file:///x"}]
    assert [line.split() for line in shown(records, "name")[::2]] == [["rule", "failed"], ["labelled", "0"]]


def test_records_that_hold_records_are_shown_one_after_another(shown: Any) -> None:
    lines = shown([{"source": "a", "rules": [{"rule": "x", "failed": 1}]}, {"source": "b", "rules": []}])
    assert lines[:2] == ["source  a", "Rules"]
    assert lines[-2:] == ["source  b", "rules   none"]


def test_an_empty_list_is_shown(shown: Any) -> None:
    assert shown([]) == ["none"]


def test_text_in_brackets_is_text_and_not_style(shown: Any) -> None:
    assert shown({"found": "no [gate] section"}) == ["found  no [gate] section"]


def test_rows_are_one_table_even_with_long_cells(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_rows([{"check": "store", "result": "fault", "found": "gone " * 10 + "\nFix: set it"}])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].split() == ["check", "result", "found"]
    assert lines[-1].strip() == "Fix: set it"
    print_rows([])
