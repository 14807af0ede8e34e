"""Stages on pairs: draw, ingest, validate, snapshot, data report, label."""

import logging
from collections.abc import Callable

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.jobs import LABEL_REPORT_FILE
from pipelines.contracts.data_report import SnapshotRecord
from pipelines.contracts.pairs import (
    IngestCounts,
    RawBatch,
    ShardFailure,
    ShardGroup,
    SourceShard,
    ValidationReport,
)
from pipelines.project.file import Project
from pipelines.settings import load_settings
from pipelines.stages.jobs import run_job
from pipelines.stages.values import Json, read_project, to_json
from pipelines.workspace import Workspace, open_workspace

log = logging.getLogger(__name__)


def draw(path: str, *, run_key: str) -> list[Json]:
    """Draw the pairs of every self_generated source in this process, as DrawnPairs; reuse those drawn before."""
    sources = drawn_sources(read_project(path))
    return [run_job(path, "draw_pairs", {"source": source}, run_key=run_key) for source in sources]


def drawn_sources(project: Project) -> list[str]:
    """Return the names of the self_generated sources."""
    return [source.name for source in project.sources if source.draw is not None]


def list_source_kinds() -> list[Json]:
    """Return each kind of source with what it reads and a minimal table of the project file."""
    import inspect

    from pipelines.intake.sources.catalogue import SOURCES, source_example

    return [
        {
            "kind": cls.model_fields["kind"].default,
            "reads": " ".join(inspect.cleandoc(cls.__doc__ or "").split()),
            "example": source_example(cls),
        }
        for cls in SOURCES
    ]


def init_feedback(path: str) -> list[Json]:
    """Create the table of votes of each feedback source; return the sources. ValueError when there is none."""
    from pipelines.intake.sources import feedback_table

    project = read_project(path)
    found = [source for source in project.sources if source.kind == "feedback"]
    if not found:
        raise ValueError(f'{project.path} has no source of kind "feedback". Add one; `plumbline sources` shows how.')
    for source in found:
        feedback_table.create_table(source)
    return [{"source": source.name, "uri": source.uri, "table": feedback_table.TABLE} for source in found]


def list_shards(path: str) -> list[Json]:
    """List every shard of every source, as SourceShard. What killed processes left on this host is deleted first."""
    from pipelines.dispatch.requests.pairs import with_drawn_sources
    from pipelines.intake import ingestion, scratch

    settings = load_settings()
    project = with_drawn_sources(Workspace(read_project(path), settings))
    workspace = Workspace(project, settings)
    scratch.remove_left_over(settings, workspace.store)
    shards = ingestion.list_source_shards(workspace)
    ingestion.note_shards(shards, workspace)
    return [to_json(shard) for shard in shards]


def ingest(path: str, shard: Json) -> Json:
    """Read a shard into an immutable RawBatch."""
    from pipelines.dispatch.requests.pairs import with_drawn_sources
    from pipelines.intake import ingestion

    settings = load_settings()
    project = with_drawn_sources(Workspace(read_project(path), settings))
    return to_json(ingestion.ingest(SourceShard.model_validate(shard), Workspace(project, settings)))


def validate(path: str, batch: Json, *, run_key: str = "") -> Json:
    """Validate a batch and return its ValidationReport; ValueError when the entire batch failed.

    With a `run_key`, the Data Docs are shown in the MLflow run of the pipeline run; while MLflow is away they are only
    in the store.
    """
    from pipelines.intake import validation

    workspace = Workspace(read_project(path), load_settings())
    report = validation.validate(RawBatch.model_validate(batch), workspace)
    if run_key:
        _show_data_docs(workspace, batch, report, run_key)
    if not report.passed:
        raise ValueError(f"{batch['source_file']}: {report.failure} The report is at {report.uri}.")
    return to_json(report)


def _show_data_docs(workspace: Workspace, batch: Json, report: ValidationReport, run_key: str) -> None:
    from pipelines.intake.data_docs import PAGE_FILE
    from pipelines.tracking import pages, runs
    from pipelines.tracking.errors import TrackingUnavailable

    settings, page = workspace.settings, workspace.store.read_bytes(f"{report.uri}/data_docs/{PAGE_FILE}")
    tags = runs.airflow_tags(settings, run_key)
    try:
        run_id = runs.parent_run(settings, project=workspace.project.name, key=run_key, tags=tags)
        runs.log_text(settings, run_id, page.decode(), pages.data_docs_artifact(report.source, batch["source_file"]))
        runs.finish_run(settings, run_id, "FINISHED")
    except TrackingUnavailable as error:
        log.warning("The Data Docs of %s are in %s, but not in MLflow: %s", batch["source_file"], report.uri, error)


def list_quarantine(path: str) -> list[Json]:
    """Return the QuarantinedShard of every shard that was validated."""
    from pipelines.intake import quarantine

    return [shard.model_dump(mode="json") for shard in quarantine.list_shards(open_workspace(path))]


def replay_quarantine(path: str) -> list[Json]:
    """Validate every quarantined row again under the project's present rules; return the new reports."""
    from pipelines.intake import quarantine

    return [to_json(report) for report in quarantine.replay_all(open_workspace(path))]


def group_shards(path: str, *, most: int) -> list[Json]:
    """Return every shard of every source in at most `most` groups, as ShardGroup."""
    from pipelines.intake import shard_groups

    shards = [SourceShard.model_validate(shard) for shard in list_shards(path)]
    found = shard_groups.group_shards(shards, open_workspace(path).store, most=most)
    return [group.model_dump(mode="json") for group in found]


def read_group(path: str, group: Json, *, run_key: str = "") -> Json:
    """Ingest and validate every shard of a group; return its IngestCounts, failures among them."""
    from pipelines.intake import shard_groups

    own = ShardGroup.model_validate(group)
    shards = shard_groups.shards_of(own, open_workspace(path).store)
    values, failures = read_each(path, [to_json(shard) for shard in shards], run_key=run_key)
    bad = tuple(ShardFailure.model_validate(failure) for failure in failures)
    return IngestCounts(shards=own.num_shards, failures=bad, **count_pairs(values)).model_dump(mode="json")


def ingest_each(path: str, shards: list[Json]) -> tuple[list[Json], list[Json]]:
    """Ingest every shard; return the RawBatches and, of the others, a ShardFailure each."""
    return _each(shards, lambda shard: ingest(path, shard))


def read_each(path: str, shards: list[Json], *, run_key: str = "") -> tuple[list[Json], list[Json]]:
    """Ingest and validate every shard; return the ValidationReports and, of the others, a ShardFailure each."""
    return _each(shards, lambda shard: validate(path, ingest(path, shard), run_key=run_key))


def _each(shards: list[Json], read: Callable[[Json], Json]) -> tuple[list[Json], list[Json]]:
    from pipelines.intake import shard_groups

    own = [SourceShard.model_validate(shard) for shard in shards]
    found, failures = shard_groups.read_each(own, lambda shard: read(to_json(shard)))
    return found, [failure.model_dump(mode="json") for failure in failures]


def failure_message(counts: Json) -> str:
    """Return one message about the shards of a group that could not be used; empty when all could."""
    from pipelines.intake import shard_groups

    own = IngestCounts.model_validate(counts)
    return shard_groups.failure_message(own.failures, own.shards) if own.failures else ""


def check_failures(path: str, failures: list[Json], num_shards: int) -> None:
    """Raise ValueError when more shards failed than the project's `validation.max_failed_shards` allows."""
    from pipelines.intake import shard_groups

    found = [ShardFailure.model_validate(failure) for failure in failures]
    shard_groups.check_failures(found, num_shards, read_project(path).validation.max_failed_shards)


_LOST = ShardFailure(
    source="unknown source",
    shard="unknown shard",
    reason="The task that reads it ended without a result. Read its log.",
)


def announced_pairs(path: str, groups: list[Json], counts: list[Json]) -> Json:
    """Return the IngestCounts of a run. ValueError when more shards failed than `max_failed_shards` allows.

    `counts` are those of the groups that were read; every shard of another group counts as failed.
    """
    done = [IngestCounts.model_validate(own) for own in counts]
    total = sum(ShardGroup.model_validate(group).num_shards for group in groups)
    lost = total - sum(own.shards for own in done)
    failures = [failure for own in done for failure in own.failures] + [_LOST] * lost
    check_failures(path, [failure.model_dump(mode="json") for failure in failures], total)
    names = ("batches", "pairs_in", "accepted", "quarantined", "duplicates", "withdrawn")
    sums = {name: sum(getattr(own, name) for own in done) for name in names}
    return {**sums, "shards": total, "failed_shards": len(failures)}


def count_pairs(reports: list[Json]) -> dict[str, int]:
    """Return the number of batches and of their rows by outcome; `pairs_in` is the sum of the outcomes."""
    found = [ValidationReport.model_validate(report) for report in reports]
    duplicates = sum(report.num_duplicates or 0 for report in found)
    return {
        "batches": len(found),
        "pairs_in": sum(report.num_rows + report.num_withdrawn for report in found),
        "accepted": sum(report.num_accepted for report in found),
        "quarantined": sum(report.num_quarantined for report in found) - duplicates,
        "duplicates": duplicates,
        "withdrawn": sum(report.num_withdrawn for report in found),
    }


def snapshot(path: str, *, run_key: str = "") -> Json:
    """Build a DatasetSnapshot of all accepted pairs, and write its data report.

    With a `run_key`, the report is shown in the MLflow run of the pipeline run; while MLflow is away it is only in the
    store.
    """
    from pipelines.intake import accepted
    from pipelines.intake import snapshot as snapshots
    from pipelines.intake.report import write

    workspace = open_workspace(path)
    reports = accepted.accepted_reports(workspace, workspace.project.snapshot.sources)
    built = snapshots.build_snapshot(reports, workspace)
    _warn_of_unused(built, workspace.project)
    record = write.write_report(built, reports, workspace)
    if run_key:
        _show_data_report(workspace, record, run_key)
    return to_json(built)


def _warn_of_unused(snapshot: DatasetSnapshot, project: Project) -> None:
    """Log how many single images of a snapshot the project's recipes do not train on."""
    number = sum((snapshot.num_unpaired or {}).values())
    if not number:
        return
    names = sorted({own.objective.name for own in project.recipes() if not own.objective.takes_unpaired})
    if names:
        those = f"objective {names[0]} does" if len(names) == 1 else f"objectives {', '.join(names)} do"
        log.warning("%d unpaired rows of this snapshot are not used: %s not take likes and dislikes.", number, those)


def _show_data_report(workspace: Workspace, record: SnapshotRecord, run_key: str) -> None:
    from pipelines.intake.scratch import scratch_dir
    from pipelines.tracking.errors import TrackingUnavailable
    from pipelines.tracking.pipeline_run import log_data_report

    settings, digest = workspace.settings, record.snapshot_digest
    with scratch_dir(settings) as scratch:
        for uri in (record.report_uri, record.figures_uri):
            (scratch / uri.rpartition("/")[2]).write_bytes(workspace.store.read_bytes(uri))
        try:
            log_data_report(settings, workspace.project.name, run_key=run_key, digest=digest, folder=scratch)
        except TrackingUnavailable as error:
            log.warning("The data report is at %s, but not in MLflow: %s", record.report_uri, error)


def close_run(path: str, *, run_key: str) -> None:
    """Finish the MLflow run of a pipeline run that ends after its snapshot; MLflow may be away."""
    from pipelines.tracking import runs
    from pipelines.tracking.errors import TrackingUnavailable

    try:
        runs.finish_if_open(load_settings(), project=read_project(path).name, key=run_key)
    except TrackingUnavailable as error:
        log.warning("The run %s stays open in MLflow: %s", run_key, error)


def data_report_uri(path: str) -> str:
    """Return the address, in the store, of the page on the project's newest snapshot; empty before the first."""
    from pipelines.records.snapshots import last_snapshot

    workspace = open_workspace(path)
    newest = last_snapshot(workspace.store, workspace.project.name)
    return newest.report_uri if newest else ""


def diff_snapshots(path: str, before: str, now: str, *, most: int) -> Json:
    """Return the SnapshotDiff of two snapshots, each named by the beginning of its digest, `last` or `previous`."""
    from pipelines.intake import snapshot_diff
    from pipelines.records import snapshots

    workspace = open_workspace(path)
    name = workspace.project.name
    entries = snapshots.snapshot_series(workspace.store, name).entries()
    found = [snapshots.find_snapshot(entries, which, name) for which in (before, now)]
    return to_json(snapshot_diff.diff_snapshots(found[0], found[1], workspace, most=most))


def enough_new_pairs(path: str, snapshot: Json) -> bool:
    """Return True if the snapshot has enough pairs that the last candidate was not trained on."""
    from pipelines.tracking import registry

    workspace = open_workspace(path)
    project = workspace.project
    minimum = project.snapshot.minimum_new_pairs
    last = registry.get_alias(workspace.settings, project.name, "candidate") if minimum else None
    if last is None:
        return True
    tags = registry.version_tags(workspace.settings, project.name, last) or {}
    return _num_pairs(snapshot) - int(tags.get("data.num_pairs", 0)) >= minimum


def labelled_snapshot(path: str, snapshot: Json, *, run_key: str) -> Json:
    """Return the snapshot with labels by the project's [labelling]; without that table, the unchanged snapshot."""
    if read_project(path).labelling is None:
        return snapshot
    return run_job(path, "label", {"snapshot": snapshot}, run_key=run_key)


def label_report(snapshot: Json) -> Json:
    """Read the LabelReport of a labelled snapshot."""
    import json

    from pipelines.store.storage import open_store

    settings = load_settings()
    report: Json = json.loads(
        open_store(snapshot["uri"], settings).read_bytes(f"{snapshot['uri']}/{LABEL_REPORT_FILE}")
    )
    return report


def _num_pairs(snapshot: Json) -> int:
    return sum(DatasetSnapshot.model_validate(snapshot).num_pairs.values())
