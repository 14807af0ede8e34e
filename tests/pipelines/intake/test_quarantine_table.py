"""Data Docs show quarantined rows by small pictures of ours, and name the images that were not decoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.contracts.pairs import ValidationReport
from pipelines.intake import quarantine_table
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


def report_on(rows: list[Any], project: Project, settings: Settings, tiny_pairs: Make) -> ValidationReport:
    tiny_pairs(rows)
    limits = project.validation.model_copy(update={"max_quarantined_share": 1.0})
    workspace = Workspace(project.model_copy(update={"validation": limits}), settings)
    (shard,) = list_source_shards(workspace)
    return validate(ingest(shard, workspace), workspace)


def page_of(report: ValidationReport) -> str:
    return (Path(report.uri.removeprefix("file://")) / "data_docs" / "index.html").read_text()


def test_rows_have_pictures_of_ours_or_the_reason_why_there_is_none(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, tiny_image: Make
) -> None:
    hostile = tiny_image(50) + b"<script>stolen()</script>"
    rows = [
        tiny_row(0),
        tiny_row(1, caption="", jpg_0=hostile),
        tiny_row(2, jpg_1=b"<svg onload=alert(1)>"),
        tiny_row(3, jpg_0=tiny_image(3, (40, 40), "GIF")),
    ]
    report = report_on(rows, tiny_project, settings, tiny_pairs)
    text = page_of(report)
    assert "Rows set aside: 3" in text
    assert text.count('<img src="data:image/jpeg;base64,') == 4, "two images of row 1, one of rows 2 and 3"
    assert "<td>not an image</td>" in text
    assert "<td>format not allowed</td>" in text
    assert text.count('<span class="badge">prompt_length</span>') == 1
    for original in (hostile, b"<script>", b"onload"):
        assert original not in text.encode()
    assert "prompt number 2" not in text


def test_only_the_first_rows_are_shown_and_the_others_counted(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_table, "MOST_ROWS", 35)
    rows = [tiny_row(number, caption="", jpg_0=b"", jpg_1=b"") for number in range(40)]
    text = page_of(report_on(rows, tiny_project, settings, tiny_pairs))
    assert "Rows set aside: 40" in text
    assert "The first 35 rows are shown" in text
    assert text.count("<td>no image</td>") == 70


def test_a_batch_without_bad_rows_has_no_table(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    assert "Rows set aside" not in page_of(report_on([tiny_row(0)], tiny_project, settings, tiny_pairs))
