"""Find the snapshots that hold or held a pair."""

from collections.abc import Iterable

from alignment.contracts.data import SPLITS
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.checked_files import fetch_checked
from pipelines.intake.pairs import ACCEPTED_FILE, read_batches
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.soft_labels import comparison_id
from pipelines.intake.sources.columns import UNPAIRED
from pipelines.intake.unpaired import read_unpaired
from pipelines.intake.withdrawn_rows import IDENTITY, is_withdrawn, rows_where
from pipelines.records.withdrawals import active_withdrawals, purge_series
from pipelines.workspace import Workspace


def names_of_pair(pair_id: str, workspace: Workspace) -> tuple[set[str], set[str]]:
    """Return the names that a pair may have in a snapshot, and the withdrawals that hold for it.

    A pair with merged votes stands in a snapshot under the name of its comparison.
    """
    names, found = {pair_id}, set[str]()
    withdrawals = active_withdrawals(workspace.store)
    for report in accepted_reports(workspace):
        with scratch_dir(workspace.settings) as scratch:
            for batch in read_batches(
                fetch_checked(workspace.store, report.uri, ACCEPTED_FILE, scratch), list(IDENTITY)
            ):
                rows = rows_where(batch, [own == pair_id for own in batch.column("pair_id").to_pylist()], True)
                names |= {comparison_id(row) for row in rows.to_pylist()}
                found |= {str(own) for own in withdrawals if any(is_withdrawn(rows, [own]))}
    return names, found


def splits_with(names: set[str], snapshot_uri: str, workspace: Workspace) -> tuple[str, ...]:
    """Return the splits of a snapshot that hold one of these pairs, and `unpaired` if it is one of its single images.

    None when the snapshot is no longer there.
    """
    if workspace.store.read_manifest(snapshot_uri) is None:
        return ()
    found: list[str] = []
    for split in SPLITS:
        with scratch_dir(workspace.settings) as scratch:
            path = fetch_checked(workspace.store, snapshot_uri, f"{split}.parquet", scratch)
            if any(names & {*batch.column("pair_id").to_pylist()} for batch in read_batches(path, ["pair_id"])):
                found.append(split)
    with scratch_dir(workspace.settings) as scratch:
        single = read_unpaired(workspace.store, snapshot_uri, ["pair_id"], scratch)
        if any(names & {*batch.column("pair_id").to_pylist()} for batch in single):
            found.append(UNPAIRED)
    return tuple(found)


def purged_with(names: Iterable[str], workspace: Workspace) -> set[str]:
    """Return the content digests of purged snapshots that held one of these pairs."""
    wanted = {*names}
    purges = purge_series(workspace.store).entries()
    return {digest for entry in purges for digest, ids in entry.plan.pair_ids.items() if wanted & {*ids}}
