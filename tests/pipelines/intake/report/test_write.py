"""The report is written once for each snapshot of a project, beside the snapshot, which keeps its bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.data import DatasetSnapshot
from pipelines.contracts.data_report import DataReport, SnapshotRecord
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.report import write as module
from pipelines.intake.report.write import write_report
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.records.snapshots import snapshot_series
from pipelines.settings import Settings
from pipelines.store.storage import hash_folder
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


def local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def build(workspace: Workspace) -> tuple[DatasetSnapshot, SnapshotRecord]:
    for shard in list_source_shards(workspace):
        validate(ingest(shard, workspace), workspace)
    reports = accepted_reports(workspace)
    snapshot = build_snapshot(reports, workspace)
    return snapshot, write_report(snapshot, reports, workspace)


def read(record: SnapshotRecord) -> DataReport:
    return DataReport.model_validate_json(local(record.figures_uri).read_text())


@pytest.fixture
def workspace(tiny_project: Project, settings: Settings) -> Workspace:
    return Workspace(tiny_project, settings)


def test_figures_outcomes_and_page_are_those_of_the_snapshot(
    workspace: Workspace, tiny_pairs: Make, tiny_row: Make
) -> None:
    rows = [tiny_row(n) for n in range(40)] + [tiny_row(0), tiny_row(50, caption=""), tiny_row(51, has_label=False)]
    tiny_pairs(rows, "a.parquet")
    tiny_pairs([tiny_row(1), tiny_row(60)], "b.parquet")
    snapshot, record = build(workspace)
    assert hash_folder(local(snapshot.uri))[0] == snapshot.content_digest, "the report is not in its folder"
    assert (record.snapshot_digest, record.num_pairs) == (snapshot.content_digest, 41)

    report = read(record)
    splits = {split: number for split, number in snapshot.num_pairs.items() if number}
    assert {name: counts[name] for name, counts in report.figures.counts["split"].items()} == splits
    assert report.figures.num_pairs == 41
    aside = report.set_aside
    assert (aside.num_rows, aside.num_in_snapshot, aside.num_quarantined, aside.num_duplicates) == (45, 41, 2, 1)
    assert sum(aside.left_out.values()) == 1
    assert aside.reasons == {"duplicate_pair": 1, "prompt_length": 1, "labelled": 1}
    assert (report.previous_digest, report.drift) == (None, ())
    page = local(record.report_uri).read_text()
    assert snapshot.content_digest in page
    assert "41 pairs of 45 rows; 4 rows are not in the snapshot" in page


def test_the_next_snapshot_is_compared_with_the_previous_one(
    workspace: Workspace, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(n) for n in range(30)], "a.parquet")
    first, _ = build(workspace)
    tiny_pairs([tiny_row(n, model_0="generator-new") for n in range(30, 60)], "b.parquet")
    second, record = build(workspace)
    report = read(record)
    assert report.previous_digest == first.content_digest
    drift = {(row.property, row.category): (row.share_before, row.share_now, row.has_drifted) for row in report.drift}
    assert drift["generator", "generator-new"] == (0.0, 0.25, True)
    assert drift["generator", "generator-a"] == (0.5, 0.25, True)
    assert ("source", "tiny_pairs") not in drift
    entries = snapshot_series(workspace.store, "tiny").entries()
    assert [entry.snapshot_digest for entry in entries] == [first.content_digest, second.content_digest]


def test_an_unchanged_snapshot_is_not_written_again(
    workspace: Workspace, tiny_pairs: Make, tiny_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pairs([tiny_row(n) for n in range(10)])
    _, record = build(workspace)
    monkeypatch.setattr(module, "_report", None)
    assert build(workspace)[1] == record
    assert snapshot_series(workspace.store, "tiny").numbers() == [1]


def test_a_report_that_was_deleted_is_written_again(workspace: Workspace, tiny_pairs: Make, tiny_row: Make) -> None:
    tiny_pairs([tiny_row(n) for n in range(10)])
    _, record = build(workspace)
    page = local(record.report_uri).read_bytes()
    for file in local(record.report_uri).parent.iterdir():
        file.unlink()
    assert build(workspace)[1] == record
    assert local(record.report_uri).read_bytes() == page
    assert snapshot_series(workspace.store, "tiny").numbers() == [1]


def test_a_project_that_returns_to_earlier_data_has_it_twice_in_the_series(
    workspace: Workspace, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(n) for n in range(10)], "a.parquet")
    first, _ = build(workspace)
    extra = tiny_pairs([tiny_row(n) for n in range(10, 20)], "b.parquet")
    build(workspace)
    tiny_pairs([tiny_row(99, caption="")], "b.parquet")
    again, record = build(workspace)
    assert extra.is_file()
    assert again.content_digest == first.content_digest
    assert len(snapshot_series(workspace.store, "tiny").numbers()) == 3
    assert read(record).previous_digest != first.content_digest


def test_an_earlier_report_that_cannot_be_read_leaves_no_drift(
    workspace: Workspace, tiny_pairs: Make, tiny_row: Make, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_pairs([tiny_row(n) for n in range(10)], "a.parquet")
    _, first = build(workspace)
    local(first.figures_uri).write_text(json.dumps({"schema_version": 99}))
    tiny_pairs([tiny_row(n) for n in range(10, 20)], "b.parquet")
    report = read(build(workspace)[1])
    assert (report.previous_digest, report.drift) == (None, ())
    assert "shows no drift" in caplog.text
