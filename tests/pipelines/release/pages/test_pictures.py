"""Pictures as text."""

import base64
import json
from pathlib import Path

from pipelines.release.pages.pictures import data_uri, extremes_by_end, sheet_prompts, svg_uri


def test_a_file_becomes_a_data_address_and_a_missing_one_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    assert data_uri(tmp_path / "a.png") == "data:image/png;base64," + base64.b64encode(b"png").decode()
    assert data_uri(tmp_path / "b.png") == ""
    assert svg_uri(b"<svg/>") == "data:image/svg+xml;base64,PHN2Zy8+"


def test_extremes_are_grouped_and_empty_ends_left_out(tmp_path: Path) -> None:
    assert extremes_by_end(tmp_path) == []
    line = {"end": "loss", "prompt_index": 3, "prompt": "a prompt", "differences": {"a": -1.23456}}
    line |= {"champion_image": "x.png", "candidate_image": "y.png"}
    (tmp_path / "extremes.json").write_text(json.dumps([line]))
    ((title, (example,)),) = extremes_by_end(tmp_path)
    assert title == "Largest losses"
    assert (example.prompt, example.differences, example.champion) == ("a prompt", (("a", "-1.23"),), "")


def test_the_sheets_prompts_are_read_where_they_were_written(tmp_path: Path) -> None:
    assert sheet_prompts(tmp_path) == []
    (tmp_path / "contact_sheet.json").write_text('["a fox", "\u72d0"]', encoding="utf-8")
    assert sheet_prompts(tmp_path) == ["a fox", "\u72d0"]
