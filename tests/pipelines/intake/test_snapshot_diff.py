"""Pairs that were added, left, or changed their label or split between two snapshots."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.contracts.data_report import SnapshotRecord
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.report.write import write_report
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.snapshot_diff import diff_snapshots
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


def record_of(workspace: Workspace) -> SnapshotRecord:
    for shard in list_source_shards(workspace):
        validate(ingest(shard, workspace), workspace)
    reports = accepted_reports(workspace)
    return write_report(build_snapshot(reports, workspace), reports, workspace)


def test_every_kind_of_change_is_found_once(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    workspace = Workspace(tiny_project, settings)
    kept = [tiny_row(n) for n in range(40)]
    turned, decided = tiny_row(41, label_0=1.0, label_1=0.0), tiny_row(42, label_0=1.0, label_1=0.0)
    tiny_pairs([*kept, tiny_row(40), turned, decided])
    before = record_of(workspace)
    turned |= {"label_0": 0.0, "label_1": 1.0}
    decided |= {"label_0": 0.5, "label_1": 0.5}
    tiny_pairs([*kept, turned, decided, tiny_row(43), tiny_row(44)])
    now = record_of(workspace)

    found = diff_snapshots(before, now, workspace, most=1)
    assert (found.num_before, found.num_now) == (43, 44)
    assert (found.num_added, found.num_left, found.num_changed_label, found.num_changed_split) == (2, 1, 2, 0)
    assert found.by_source == {"tiny_pairs": {"added": 2, "left": 1, "label": 2, "split": 0}}
    assert [(e.change, bool(e.before), bool(e.now)) for e in found.examples] == [
        ("added", False, True),
        ("left", True, False),
        ("label", True, True),
    ]
    assert found.examples[1].prompt == "prompt number 40"
    every = diff_snapshots(before, now, workspace, most=9).examples
    changed = {e.prompt: (e.before, e.now) for e in every if e.change == "label"}
    assert changed["prompt number 42"][1].endswith(", tie")
    assert changed["prompt number 41"][0] != changed["prompt number 41"][1]
    assert sorted(e.prompt for e in every if e.change == "added") == ["prompt number 43", "prompt number 44"]

    back = diff_snapshots(now, before, workspace, most=0)
    assert (back.num_added, back.num_left, back.num_changed_label, back.examples) == (1, 2, 2, ())
    same = diff_snapshots(now, now, workspace, most=5)
    assert (same.num_added, same.num_left, same.by_source, same.examples) == (0, 0, {}, ())


def test_another_seed_moves_pairs_between_splits(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(n) for n in range(60)])
    before = record_of(Workspace(tiny_project, settings))
    section = tiny_project.snapshot.model_copy(update={"seed": 1})
    workspace = Workspace(tiny_project.model_copy(update={"snapshot": section}), settings)
    found = diff_snapshots(before, record_of(workspace), workspace, most=1)
    assert found.num_changed_split > 0
    assert (found.num_added, found.num_left, found.num_changed_label) == (0, 0, 0)
    (moved,) = found.examples
    assert moved.before.partition(", ")[0] != moved.now.partition(", ")[0]
    assert moved.before.partition(", ")[2] == moved.now.partition(", ")[2], "the label is the same"


def test_a_snapshot_that_was_deleted_is_named(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    workspace = Workspace(tiny_project, settings)
    tiny_pairs([tiny_row(n) for n in range(9)])
    record = record_of(workspace)
    (Path(record.snapshot_uri.removeprefix("file://")) / "manifest.json").unlink()
    with pytest.raises(ValueError, match=f"{record.snapshot_uri} is not finished"):
        diff_snapshots(record, record, workspace, most=1)
