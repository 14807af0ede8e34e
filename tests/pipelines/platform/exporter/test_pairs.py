"""Pairs by source and the last monitor report, from a real ingest."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.contracts.monitor import MonitorFinding, MonitorReport
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.validation import validate
from pipelines.platform.exporter import pairs
from pipelines.platform.exporter.metrics import Reading
from pipelines.project.file import Project
from pipelines.records.monitor_reports import save_report
from pipelines.settings import Settings
from pipelines.workspace import Workspace


def values(reading: Reading) -> dict[tuple[str, ...], float]:
    return {(s.metric.name.removeprefix("plumbline_"), *s.labels[1:]): s.value for s in pairs.read(reading)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations")
def test_pairs_are_counted_by_source(
    settings: Settings, tiny_project: Project, tiny_row: Callable[..., dict[str, Any]], tiny_pairs: Callable[..., Path]
) -> None:
    reading = Reading(settings, tiny_project)
    assert values(reading) == {("pairs_accepted", "tiny_pairs"): 0, ("pairs_quarantined", "tiny_pairs"): 0}
    tiny_pairs([*(tiny_row(number) for number in range(11)), tiny_row(11, caption="")])
    workspace = Workspace(tiny_project, settings)
    for shard in list_source_shards(workspace):
        validate(ingest(shard, workspace), workspace)
    assert values(reading) == {("pairs_accepted", "tiny_pairs"): 11, ("pairs_quarantined", "tiny_pairs"): 1}


def test_the_last_monitor_report_is_summarised(settings: Settings, tiny_project: Project) -> None:
    reading = Reading(settings, tiny_project)
    now = datetime(2026, 11, 1, tzinfo=UTC)
    for days, status in ((0, "ok"), (1, "alarm")):
        finding = MonitorFinding.model_validate(
            {"name": "registry", "measured": None, "limit": "", "status": status, "explanation": ""}
        )
        report = MonitorReport(
            project="tiny",
            at=now + timedelta(days=days),
            champion_version=None,
            snapshot_digest=None,
            num_fresh_pairs=40 + days,
            findings=(finding,),
            outcome="alarm" if days else "ok",
            retrain="not_needed",
        )
        save_report(reading.workspace.store, report)
    found = values(reading)
    assert found["monitor_report_timestamp_seconds",] == (now + timedelta(days=1)).timestamp()
    assert found["monitor_fresh_pairs",] == 41
    assert found["monitor_findings", "alarm"] == 1
    assert found["monitor_findings", "ok"] == 0
