"""Snapshots of a project in the order in which they became current: data_reports/PROJECT/NNNNNN.json."""

from collections.abc import Sequence

from pipelines.contracts.data_report import SnapshotRecord
from pipelines.records.series import Series, series_of_models
from pipelines.store.storage import Store

LAST, PREVIOUS = "last", "previous"
SHORT = 12
"""Digits of a digest in a message."""
_NAMED = 10
"""Number of snapshots that an error names."""


def snapshot_series(store: Store, project: str) -> Series[SnapshotRecord]:
    """Open the series of a project. A snapshot may be in it again, when the project returned to earlier data."""
    return series_of_models(store, "data_reports", project, model=SnapshotRecord)


def report_folder(project: str) -> tuple[str, ...]:
    """Return the folder of the store for a project's data reports, apart from the series, which is listed often."""
    return ("data_report_pages", project)


def last_snapshot(store: Store, project: str) -> SnapshotRecord | None:
    """Read the record of a project's newest snapshot; None before the first."""
    return snapshot_series(store, project).last()[1]


def find_snapshot(records: Sequence[SnapshotRecord], name: str, project: str) -> SnapshotRecord:
    """Return the snapshot that `name` means: `last`, `previous`, or the beginning of its digest.

    ValueError names the known snapshots when none, or more than one, begins with `name`.
    """
    if not records:
        raise ValueError(f"Project {project!r} has no snapshot yet. Run `plumbline snapshot {project}`.")
    if name in (LAST, PREVIOUS):
        return _by_position(records, name, project)
    newest = {record.snapshot_digest: record for record in records}
    found = [record for digest, record in newest.items() if name and digest.startswith(name.lower())]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} snapshots of {project!r} begin with {name!r}" if found else _unknown(name, project)
    known = found or list(newest.values())
    raise ValueError(f"{problem}. Give more digits, {LAST!r} or {PREVIOUS!r}. Newest of them: {_names(known)}.")


def _unknown(name: str, project: str) -> str:
    return f"No snapshot of {project!r} begins with {name!r}"


def _names(records: Sequence[SnapshotRecord]) -> str:
    return ", ".join(record.snapshot_digest[:SHORT] for record in records[: -_NAMED - 1 : -1])


def _by_position(records: Sequence[SnapshotRecord], name: str, project: str) -> SnapshotRecord:
    if name == LAST:
        return records[-1]
    if len(records) == 1:
        raise ValueError(
            f"Project {project!r} has one snapshot, {records[0].snapshot_digest[:SHORT]}, and none before it. Ingest"
            f" more pairs, then run `plumbline snapshot {project}`."
        )
    return records[-2]
