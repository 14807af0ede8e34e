"""Properties of the monitor's value objects."""

from datetime import UTC, datetime

from pipelines.contracts.monitor import MonitorFinding, MonitorReport


def test_alarms_are_the_explanations_of_the_findings_with_status_alarm() -> None:
    findings = tuple(
        MonitorFinding(name=name, measured=None, limit="", status=status, explanation=f"{name} {status}")
        for name, status in (("a", "ok"), ("b", "alarm"), ("c", "retrain"), ("d", "alarm"))
    )
    report = MonitorReport(
        project="tiny",
        at=datetime(2026, 6, 1, tzinfo=UTC),
        champion_version=None,
        snapshot_digest=None,
        num_fresh_pairs=0,
        findings=findings,
        outcome="alarm",
        retrain="held_back",
    )
    assert report.alarms == ("b alarm", "d alarm")
    assert report.reasons_to_retrain == ("c retrain",)
    assert MonitorReport.model_validate_json(report.model_dump_json()) == report
