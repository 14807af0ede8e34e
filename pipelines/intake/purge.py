"""Delete what the store still holds of withdrawn pairs: plan it, write the batches again without them, then delete.

Raw and validated batches are replaced by ones without the withdrawn rows, so that the other rows of their shards stay
in use. Snapshots, features and data reports that hold a withdrawn pair are deleted; the next run builds new ones. A
purge that was interrupted is finished by the next.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from alignment.contracts.data import SPLITS
from pipelines.contracts.pairs import RawBatch
from pipelines.contracts.withdrawals import PurgeItem, PurgePlan, PurgeRecord, Withdrawal
from pipelines.intake.checked_files import fetch_checked
from pipelines.intake.ingestion import write_batch
from pipelines.intake.pairs import ACCEPTED_FILE, PAIRS_FILE, QUARANTINE_FILE, read_batches
from pipelines.intake.quarantine import replay
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.shard_index import index_entries
from pipelines.intake.unpaired import read_unpaired
from pipelines.intake.validation import validate
from pipelines.intake.withdrawn_rows import WithheldRows, withdrawn_pairs
from pipelines.records.withdrawals import (
    active_withdrawals,
    read_withheld,
    record_purge,
    unfinished_purges,
    withheld_keys,
)
from pipelines.store.storage import MANIFEST_FILE, Store
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

RAW, VALIDATED, SNAPSHOT, FEATURES, REPORT = "raw batch", "validated batch", "snapshot", "features", "data report"


@dataclass
class _Found:
    """The results of a search through the store so far."""

    items: list[PurgeItem] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Withdrawn pairs: pair_id to the identity of the comparison."""
    pair_ids: dict[str, tuple[str, ...]] = field(default_factory=dict)


def plan_purge(workspace: Workspace, projects: Collection[str]) -> PurgePlan:
    """Return every folder of the store that holds a withdrawn pair. `projects` are those that can be validated again.

    Every table of pairs is read, without its images.
    """
    store, withdrawals = workspace.store, active_withdrawals(workspace.store)
    left = {item.uri for purge in unfinished_purges(store) for item in purge.plan.items}
    found = _Found()
    if withdrawals:
        for kind, parent, files in ((RAW, "raw", [PAIRS_FILE]), (VALIDATED, "raw/validated", _VALIDATED_FILES)):
            for uri in _published(store, parent):
                if uri not in left:
                    _add(found, kind, uri, _pairs_in(uri, files, workspace, withdrawals), store)
        _find_snapshots(found, workspace, withdrawals, left)
        _find_derived(found, store, left)
    known = {uri.split("/")[-4] for uri in store.list_uris(store.uri("raw/index"))}
    return PurgePlan(
        items=tuple(found.items), pair_ids=found.pair_ids, other_projects=tuple(sorted(known - {*projects}))
    )


_VALIDATED_FILES = [ACCEPTED_FILE, QUARANTINE_FILE]


def _published(store: Store, parent: str) -> Iterator[str]:
    """Yield the published folders directly below a folder of the store, named by digest and perhaps generation."""
    root = store.uri(parent)
    pattern = re.compile(rf"{re.escape(root)}/[0-9a-f]{{64}}(\.g[0-9]+)?/{re.escape(MANIFEST_FILE)}")
    for uri in store.list_uris(root):
        if pattern.fullmatch(uri):
            yield uri.rpartition("/")[0]


def _pairs_in(
    uri: str, files: Sequence[str], workspace: Workspace, withdrawals: Sequence[Withdrawal]
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    with scratch_dir(workspace.settings) as scratch:
        for name in files:
            pairs |= withdrawn_pairs(fetch_checked(workspace.store, uri, name, scratch), withdrawals)
    return pairs


def _add(found: _Found, kind: str, uri: str, pairs: Mapping[str, str], store: Store) -> None:
    if pairs:
        found.names |= pairs
        found.items.append(_item(kind, uri, len(pairs), store))


def _item(kind: str, uri: str, num_pairs: int, store: Store) -> PurgeItem:
    manifest = store.read_manifest(uri)
    size = sum(entry.num_bytes for entry in manifest.files.values()) if manifest else 0
    return PurgeItem(kind=kind, uri=uri, num_pairs=num_pairs, num_bytes=size)


def _find_snapshots(
    found: _Found, workspace: Workspace, withdrawals: Sequence[Withdrawal], left: Collection[str]
) -> None:
    """Find snapshots with a withdrawn pair, also those of batches that are gone, by the columns that they have."""
    store = workspace.store
    names = {*found.names, *found.names.values(), *(own.value for own in withdrawals if own.kind == "pair")}
    people = {own.value for own in withdrawals if own.kind == "annotator"}
    sources = {own.value for own in withdrawals if own.kind == "source" and not own.shard}
    for uri in _published(store, "snapshots"):
        manifest = store.read_manifest(uri)
        if manifest is None or uri in left:
            continue
        pairs = []
        with scratch_dir(workspace.settings) as scratch:
            for batch in _snapshot_rows(uri, store, scratch):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                pairs += [own for own, who, source in rows if own in names or who in people or source in sources]
        if pairs:
            found.items.append(_item(SNAPSHOT, uri, len(pairs), store))
            found.pair_ids[manifest.content_digest] = tuple(sorted(pairs))


def _snapshot_rows(uri: str, store: Store, scratch: Path) -> Iterator[pa.RecordBatch]:
    columns = ["pair_id", "annotator_id", "source"]
    for split in SPLITS:
        yield from read_batches(fetch_checked(store, uri, f"{split}.parquet", scratch), columns)
    yield from read_unpaired(store, uri, columns, scratch)


def _find_derived(found: _Found, store: Store, left: Collection[str]) -> None:
    """Find features and data reports that were made of a snapshot with a withdrawn pair."""
    for uri in _published(store, "features"):
        digest = json.loads(store.read_bytes(f"{uri}/index.json"))["spec"]["snapshot_digest"] if uri not in left else ""
        if digest in found.pair_ids:
            found.items.append(_item(FEATURES, uri, len(found.pair_ids[digest]), store))
    roots = ("data_report_pages", "data_reports")  # before 2026-11-29 beside the series
    files = [own for root in roots for own in store.list_uris(store.uri(root))]
    for page in (own for own in files if own.endswith("/report.json")):
        uri, digest = page.rpartition("/")[0], json.loads(store.read_bytes(page))["snapshot_digest"]
        if digest in found.pair_ids and uri not in left:
            found.items.append(_item(REPORT, uri, len(found.pair_ids[digest]), store))


def purge(plan: PurgePlan, workspaces: Sequence[Workspace], *, by: str) -> PurgeRecord:
    """Replace the batches of a plan by ones without withdrawn rows, then delete its folders; return the record.

    `workspaces` are the projects whose shards are validated again; a shard of another project leaves its snapshots
    until the project's next ingest.
    """
    store = workspaces[0].store
    for earlier in unfinished_purges(store):
        _delete(earlier.plan, store)
        record_purge(store, earlier.plan, by=by, finishes=earlier.number)
    uris = {item.uri for item in plan.items}
    rewritten = _write_again([item.uri for item in plan.items if item.kind == RAW], workspaces[0])
    for workspace in workspaces:
        _validate_again(uris, rewritten, workspace)
    _forget_entries(uris, plan.other_projects, store)
    started = record_purge(store, plan, by=by)
    _delete(plan, store)
    return record_purge(store, plan, by=by, finishes=started.number)


def _write_again(uris: Sequence[str], workspace: Workspace) -> dict[str, RawBatch]:
    """Write each raw batch without its withdrawn rows; return the new batches by the content digest of the old."""
    store, keys = workspace.store, withheld_keys(workspace.store)
    batches = {}
    for uri in uris:
        manifest = store.read_manifest(uri)
        if manifest is None:
            continue
        old, key = RawBatch.model_validate(manifest.value), keys.get(uri, uri.rpartition("/")[2])
        earlier = read_withheld(store, key)
        withheld = WithheldRows(
            active_withdrawals(store), num_rows=old.num_withdrawn, applied=earlier.withdrawals if earlier else ()
        )
        with scratch_dir(workspace.settings) as scratch:
            rows = read_batches(fetch_checked(store, uri, PAIRS_FILE, scratch))
            batches[old.content_digest] = write_batch(
                key, withheld.leave_out(rows), withheld, source=old.source, name=old.source_file, workspace=workspace
            )
    return batches


def _validate_again(uris: Collection[str], batches: Mapping[str, RawBatch], workspace: Workspace) -> None:
    """Enter reports on the new batches in the project's index; the entry of a shard without a batch is deleted.

    A quarantine that was replayed is replayed again: a batch keeps the facts of the images from its ingest, and a
    replay decodes them within the present limits.
    """
    entries = index_entries(workspace)
    replayed = {entry.rpartition("/")[0] for entry, _ in entries if not entry.endswith("/shard.json")}
    for entry, report in entries:
        if not entry.endswith("/shard.json") or (report.uri not in uris and report.batch_digest not in batches):
            continue
        batch = batches.get(report.batch_digest)
        if batch is None:
            log.warning("%s: its raw batch is gone, so it leaves the snapshots until the next ingest.", entry)
            workspace.store.delete(entry)
            continue
        again = validate(batch, workspace)
        if entry.rpartition("/")[0] in replayed and again.num_quarantined:
            replay(again, workspace)
    for entry, report in index_entries(workspace):
        if report.uri in uris:
            workspace.store.delete(entry)


def _forget_entries(uris: Collection[str], projects: Sequence[str], store: Store) -> None:
    """Delete the entries of projects that cannot be validated here and whose reports are about to go."""
    for name in projects:
        for entry in store.list_uris(store.uri("raw/index", name)):
            if json.loads(store.read_bytes(entry))["uri"] in uris:
                store.delete(entry)


def _delete(plan: PurgePlan, store: Store) -> None:
    """Delete folders; the manifest of each comes last, so that an interrupted deletion is seen."""
    for item in plan.items:
        manifest = f"{item.uri}/{MANIFEST_FILE}"
        for uri in store.list_uris(item.uri):
            if uri != manifest:
                store.delete(uri)
        store.delete(manifest)
        log.info("Deleted %s %s", item.kind, Path(item.uri).name)
