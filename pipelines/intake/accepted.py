"""The accepted rows that the project may use now: the newest report on each shard, without what was withdrawn."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.contracts.pairs import ValidationReport
from pipelines.contracts.withdrawals import Withdrawal
from pipelines.intake.checked_files import fetch_checked
from pipelines.intake.pairs import ACCEPTED_FILE
from pipelines.intake.shard_index import index_entries, removed_shards, shard_of_entry
from pipelines.intake.withdrawn_rows import without_withdrawn
from pipelines.store.storage import Store
from pipelines.workspace import Workspace


def accepted_reports(workspace: Workspace, only: Sequence[str] = ()) -> list[ValidationReport]:
    """Return the newest passed report of each of the project's shards, sorted by source and batch digest.

    Sources that the project no longer names are left out; with `only`, all sources except the named ones are left out.
    So are shards that have gone from a source with `on_removed = "withdraw"`.
    """
    sources = {source.name for source in workspace.project.sources if source.name in only or not only}
    found = [(shard_of_entry(own), report) for own, report in index_entries(workspace) if report.passed]
    removed = removed_shards(workspace, [(report.source, shard) for shard, report in found])
    kept = [r for shard, r in found if r.source in sources and (r.source, shard) not in removed]
    return sorted(kept, key=lambda report: (report.source, report.batch_digest))


def accepted_folders(store: Store, reports: Sequence[ValidationReport]) -> list[tuple[str, str, str]]:
    """Return (source, digest of the accepted rows, folder) of each passed report, in the order of the snapshot."""
    return sorted({(r.source, _accepted_digest(store, r), r.uri) for r in reports if r.passed})


def _accepted_digest(store: Store, report: ValidationReport) -> str:
    manifest = store.read_manifest(report.uri)
    if manifest is None:
        raise ValueError(f"Validation report {report.uri} no longer exists. Run validate on its batch again.")
    return manifest.files[ACCEPTED_FILE].sha256


def fetch_accepted(store: Store, folder_uri: str, scratch: Path, withdrawals: Sequence[Withdrawal]) -> Path:
    """Return a local file of a batch's accepted rows without those that are withdrawn.

    ValueError when the stored file differs from the published one.
    """
    return without_withdrawn(fetch_checked(store, folder_uri, ACCEPTED_FILE, scratch), withdrawals, scratch)
