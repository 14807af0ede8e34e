"""Reports of the monitor: the newest is found among other files of its folder."""

from datetime import UTC, datetime
from pathlib import Path

from pipelines.contracts.monitor import MonitorReport
from pipelines.records.monitor_reports import last_report, save_report
from pipelines.records.series import series_of_json
from pipelines.store.storage import open_store


def report(day: int) -> MonitorReport:
    return MonitorReport(
        project="tiny",
        at=datetime(2026, 11, day, tzinfo=UTC),
        champion_version=None,
        snapshot_digest=None,
        num_fresh_pairs=day,
        findings=(),
        outcome="ok",
        retrain="not_needed",
    )


def test_the_newest_report_is_found_whatever_was_saved_last(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    assert last_report(store, "tiny") is None
    series_of_json(store, "monitor", "tiny", "retrains").create(1, {"at": "later"})
    saved = [save_report(store, report(day)) for day in (3, 12, 5)]
    found = last_report(store, "tiny")
    assert found == saved[1]
    assert found is not None
    assert store.exists(found.uri)
    assert last_report(store, "other") is None
