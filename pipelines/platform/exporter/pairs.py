"""Data: accepted and quarantined pairs of each source, and the last report of the monitor."""

from collections import Counter

from pipelines.intake.accepted import accepted_reports
from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.records.monitor_reports import last_report

_ACCEPTED = Metric("plumbline_pairs_accepted", "Accepted pairs in passed batches of a source.", ("project", "source"))
_QUARANTINED = Metric("plumbline_pairs_quarantined", "Quarantined rows in passed batches.", ("project", "source"))
_REPORT_TIME = Metric("plumbline_monitor_report_timestamp_seconds", "Time of the last monitor report.", ("project",))
_FRESH = Metric(
    "plumbline_monitor_fresh_pairs", "Pairs of the last report that the champion did not learn from.", ("project",)
)
_FINDINGS = Metric("plumbline_monitor_findings", "Findings of the last monitor report.", ("project", "status"))
METRICS = (_ACCEPTED, _QUARANTINED, _REPORT_TIME, _FRESH, _FINDINGS)


def read(reading: Reading) -> list[Sample]:
    """Add up the newest report of each shard, and read the last monitor report."""
    workspace = reading.workspace
    name = workspace.project.name
    accepted, quarantined = Counter[str](), Counter[str]()
    for report in accepted_reports(workspace):
        accepted[report.source] += report.num_accepted
        quarantined[report.source] += report.num_quarantined
    samples = [_ACCEPTED.of(accepted[source.name], name, source.name) for source in workspace.project.sources]
    samples += [_QUARANTINED.of(quarantined[source.name], name, source.name) for source in workspace.project.sources]
    last = last_report(workspace.store, name)
    if last is not None:
        statuses = Counter(finding.status for finding in last.findings)
        samples += [_REPORT_TIME.of(last.at.timestamp(), name), _FRESH.of(last.num_fresh_pairs, name)]
        samples += [_FINDINGS.of(statuses[status], name, status) for status in ("ok", "retrain", "alarm", "unmeasured")]
    return samples
