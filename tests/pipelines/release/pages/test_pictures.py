"""Pictures as text."""

import base64
import json
from pathlib import Path

import pytest

from pipelines.release.pages.pictures import extremes_by_end, picture, sheet_prompts, svg_uri


def test_a_file_becomes_a_data_address_and_a_missing_one_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    assert picture(tmp_path, "a.png") == "data:image/png;base64," + base64.b64encode(b"png").decode()
    assert picture(tmp_path, "b.png") == ""
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


@pytest.mark.parametrize("name", ["../secret.png", "{outside}", "extremes/../../secret.png", "extremes/link.png"])
@pytest.mark.parametrize("role", ["champion_image", "candidate_image"])
def test_a_picture_outside_the_evaluations_folder_is_refused(tmp_path: Path, name: str, role: str) -> None:
    folder = tmp_path / "evaluation"
    (folder / "extremes").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "extremes" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "extremes" / "good.png").write_bytes(b"good")
    line = {"end": "gain", "prompt_index": 0, "prompt": "a prompt", "differences": {}}
    line |= {"champion_image": "extremes/good.png", "candidate_image": "extremes/good.png"}
    line[role] = name.format(outside=tmp_path / "secret.png")
    (folder / "extremes.json").write_text(json.dumps([line]))
    with pytest.raises(ValueError, match="does not stay inside") as caught:
        extremes_by_end(folder)
    assert repr(line[role]) in str(caught.value)
    assert str(folder / "extremes.json") in str(caught.value)


def test_a_contact_sheet_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "contact_sheet.png").symlink_to("../secret.png")
    with pytest.raises(ValueError, match="a symbolic link leads to"):
        picture(tmp_path / "evaluation", "contact_sheet.png")
