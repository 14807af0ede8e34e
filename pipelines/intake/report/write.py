"""Write the data report of a snapshot to the store, once for each step from one snapshot of a project to the next."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.values import canonical_json
from pipelines.contracts.data_report import DataReport, SnapshotRecord
from pipelines.contracts.pairs import ValidationReport
from pipelines.intake.quarantine import list_shards
from pipelines.intake.report.drift import drift
from pipelines.intake.report.examples import example_pairs
from pipelines.intake.report.figures import Counts, count_rows, count_unpaired, figures, votes
from pipelines.intake.report.page import render_page
from pipelines.intake.report.rows import read_rows
from pipelines.intake.report.set_aside import set_aside
from pipelines.intake.scratch import scratch_dir
from pipelines.records.series import Series
from pipelines.records.snapshots import report_folder, snapshot_series
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

PAGE_FILE, FIGURES_FILE = "index.html", "report.json"
REPORT_VERSION = 1
"""Raised when the same snapshot would now have another report."""


def write_report(
    snapshot: DatasetSnapshot, reports: Sequence[ValidationReport], workspace: Workspace
) -> SnapshotRecord:
    """Write page and figures of a snapshot that `build_snapshot` made of `reports`, and enter it in the series.

    A snapshot that is the newest of the project already is not written again. The snapshot's folder is not changed.
    """
    store, project = workspace.store, workspace.project.name
    series = snapshot_series(store, project)
    numbers = series.numbers()
    last = series.read(numbers[-1]) if numbers else None
    if last is not None and last.snapshot_digest == snapshot.content_digest and store.exists(last.report_uri):
        return last
    previous = _previous(series, numbers, snapshot.content_digest)
    inputs = [REPORT_VERSION, snapshot.content_digest, previous.snapshot_digest if previous else ""]
    uri = store.uri(*report_folder(project), hashlib.sha256(canonical_json(inputs).encode()).hexdigest())
    record = SnapshotRecord(
        at=datetime.now(UTC),
        snapshot_uri=snapshot.uri,
        snapshot_digest=snapshot.content_digest,
        num_pairs=sum(snapshot.num_pairs.values()),
        report_uri=f"{uri}/{PAGE_FILE}",
        figures_uri=f"{uri}/{FIGURES_FILE}",
    )
    if store.read_manifest(uri) is None:
        report = _report(snapshot, reports, workspace, previous)
        with scratch_dir(workspace.settings) as folder:
            _write_files(folder, report, snapshot, workspace)
            store.publish_folder(folder, uri, record.model_dump(mode="json"), move=True)
    log.info("Data report of %d pairs: %s", record.num_pairs, record.report_uri)
    return series.append(
        lambda _number, newest: None if newest and newest.snapshot_digest == snapshot.content_digest else record
    )


def _previous(series: Series[SnapshotRecord], numbers: list[int], digest: str) -> SnapshotRecord | None:
    """Return the newest record of another snapshot among those with these numbers."""
    newest_first = map(series.read, reversed(numbers))
    return next((record for record in newest_first if record.snapshot_digest != digest), None)


def _report(
    snapshot: DatasetSnapshot,
    reports: Sequence[ValidationReport],
    workspace: Workspace,
    previous: SnapshotRecord | None,
) -> DataReport:
    counts: Counts = Counter()
    named, left_out = [votes([])], Counter[str]()
    for rows in read_rows(snapshot, reports, workspace):
        counts.update(count_unpaired(rows.used) if rows.is_unpaired else count_rows(rows.used))
        named.append(votes([] if rows.is_unpaired else rows.used))
        left_out.update(rows.left_out)
    num_pairs = sum(snapshot.num_pairs.values())
    now = figures(counts, np.concatenate(named), num_pairs=num_pairs)
    only = workspace.project.snapshot.sources
    shards = [shard for shard in list_shards(workspace) if shard.source in only or not only]
    before = _figures_of(previous, workspace)
    return DataReport(
        project=workspace.project.name,
        snapshot_uri=snapshot.uri,
        snapshot_digest=snapshot.content_digest,
        previous_digest=before.snapshot_digest if before else None,
        figures=now,
        set_aside=set_aside(shards, left_out, num_in_snapshot=num_pairs + now.num_unpaired),
        drift=drift(before.figures, now) if before else (),
    )


def _figures_of(record: SnapshotRecord | None, workspace: Workspace) -> DataReport | None:
    """Read an earlier report; None when it was deleted or an earlier version wrote it in another form."""
    if record is None or not workspace.store.exists(record.figures_uri):
        return None
    try:
        return DataReport.model_validate_json(workspace.store.read_bytes(record.figures_uri))
    except ValueError:
        log.warning("%s cannot be read, so the new report shows no drift.", record.figures_uri)
        return None


def _write_files(folder: Path, report: DataReport, snapshot: DatasetSnapshot, workspace: Workspace) -> None:
    page = render_page(report, example_pairs(snapshot, workspace))
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")
    (folder / FIGURES_FILE).write_text(report.model_dump_json(indent=1), encoding="utf-8")
