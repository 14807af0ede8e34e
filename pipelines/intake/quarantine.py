"""Rows in quarantine: the reasons, and a second validation of them after a rule or its limits changed."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import QuarantinedShard, RawBatch, ValidationReport
from pipelines.intake.checked_files import fetch_checked
from pipelines.intake.data_docs import PAGE_FILE
from pipelines.intake.ingestion import DECODING_LIMITS, INGEST_VERSION, find_batch, publish_batch
from pipelines.intake.pairs import QUARANTINE_FILE, read_batches
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.shard_index import index_entries, removed_shards, shard_of_entry
from pipelines.intake.validation import DUPLICATE, REPLAY_MARK, outcome, validate
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

REPLAYED = " (replayed rows)"
"""Ending of a shard's name in the report on the second validation of its quarantined rows."""


def list_shards(workspace: Workspace) -> list[QuarantinedShard]:
    """Return the newest report on every shard of the project's sources and on every replay, sorted by source and shard.

    Shards whose batch failed are among them.
    """
    return [_describe(entry, report, workspace) for entry, report in _reports(workspace)]


def replay_all(workspace: Workspace) -> list[ValidationReport]:
    """Validate the quarantined rows of every shard again under the project's present rules, see `replay`."""
    shards = [report for entry, report in _reports(workspace) if entry.endswith("/shard.json")]
    found = [report for report in shards if report.num_quarantined]
    return [again for report in found if (again := replay(report, workspace)) != report]


def _reports(workspace: Workspace) -> list[tuple[str, ValidationReport]]:
    """Return (index entry, report) of each shard and replay of the project's sources, without removed shards."""
    sources = {source.name for source in workspace.project.sources}
    found = [(entry, report) for entry, report in index_entries(workspace) if report.source in sources]
    removed = removed_shards(workspace, [(report.source, shard_of_entry(entry)) for entry, report in found])
    return [(entry, report) for entry, report in found if (report.source, shard_of_entry(entry)) not in removed]


def _describe(entry: str, report: ValidationReport, workspace: Workspace) -> QuarantinedShard:
    shard, is_replay = shard_of_entry(entry), not entry.endswith("/shard.json")
    broken = _broken_rules(report, workspace.settings) if report.num_quarantined else []
    return QuarantinedShard(
        source=report.source,
        shard=f"{shard}{REPLAYED}" if is_replay else shard,
        num_rows=report.num_rows,
        num_accepted=report.num_accepted,
        num_quarantined=report.num_quarantined,
        num_duplicates=sum(outcome(rules) == DUPLICATE for rules in broken),
        reasons=dict(Counter(rule for rules in broken for rule in rules).most_common()),
        failure=report.failure,
        data_docs_uri=f"{report.uri}/data_docs/{PAGE_FILE}",
        rows_uri=f"{report.uri}/{QUARANTINE_FILE}",
        is_replay=is_replay,
    )


def _broken_rules(report: ValidationReport, settings: Settings) -> list[list[str]]:
    """Return the broken rules of each quarantined row; a row may break several."""
    with scratch_dir(settings) as scratch:
        path = fetch_checked(open_store(settings.store_uri, settings), report.uri, QUARANTINE_FILE, scratch)
        reasons: list[list[str]] = pq.read_table(path, columns=["reasons"]).column("reasons").to_pylist()
    return reasons


def replay(report: ValidationReport, workspace: Workspace) -> ValidationReport:
    """Validate a report's quarantined rows again under the project's present rules; their facts are recomputed.

    Returns a separate report, listed in the index beside the first. It never fails for its share of bad rows, since all
    its rows were bad before. Rows that were only copies of an accepted row are left out. A report without rows to
    validate again is returned unchanged.
    """
    project = workspace.project
    inputs = {
        "version": INGEST_VERSION,
        "replay": report.content_digest,
        "limits": project.validation.model_dump(mode="json", include=set(DECODING_LIMITS)),
    }
    key = hashlib.sha256(canonical_json(inputs).encode()).hexdigest()
    batch = find_batch(key, workspace.store) or _quarantined_batch(report, key, workspace)
    if not batch.num_rows:
        return report
    limits = project.validation.model_copy(update={"max_quarantined_share": 1.0})
    return validate(batch, Workspace(project.model_copy(update={"validation": limits}), workspace.settings))


def _quarantined_batch(report: ValidationReport, key: str, workspace: Workspace) -> RawBatch:
    with scratch_dir(workspace.settings) as scratch:
        path = fetch_checked(workspace.store, report.uri, QUARANTINE_FILE, scratch)
        shard = next((batch.column("source_file")[0].as_py() for batch in read_batches(path, ["source_file"])), "")
        name = f"{shard}{REPLAY_MARK}{report.content_digest[:16]}"
        rows = _rows_to_retry(path)
        return publish_batch(key, rows, source=report.source, name=name, workspace=workspace)


def _rows_to_retry(path: Path) -> Iterator[pa.RecordBatch]:
    for batch in read_batches(path):
        keep = [outcome(reasons) != DUPLICATE for reasons in batch.column("reasons").to_pylist()]
        kept = batch.filter(pa.array(keep, pa.bool_()))
        yield kept.select([name for name in kept.schema.names if name != "reasons"])
