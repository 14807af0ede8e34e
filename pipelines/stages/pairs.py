"""Stages on pairs: draw, ingest, validate, snapshot, label."""

import logging

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.jobs import LABEL_REPORT_FILE
from pipelines.contracts.pairs import RawBatch, SourceShard, ValidationReport
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
    from pipelines.intake.sources import feedback

    project = read_project(path)
    found = [source for source in project.sources if source.kind == "feedback"]
    if not found:
        raise ValueError(f'{project.path} has no source of kind "feedback". Add one; `plumbline sources` shows how.')
    for source in found:
        feedback.create_table(source)
    return [{"source": source.name, "uri": source.uri, "table": feedback.TABLE} for source in found]


def list_shards(path: str) -> list[Json]:
    """List every shard of every source, as SourceShard."""
    from pipelines.dispatch.requests.pairs import with_drawn_sources
    from pipelines.intake import ingestion

    settings = load_settings()
    project = with_drawn_sources(Workspace(read_project(path), settings))
    return [to_json(shard) for shard in ingestion.list_source_shards(Workspace(project, settings))]


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


def count_pairs(reports: list[Json]) -> dict[str, int]:
    """Return the total numbers of batches and of pairs, accepted and quarantined."""
    found = [ValidationReport.model_validate(report) for report in reports]
    return {
        "batches": len(found),
        "pairs_in": sum(report.num_rows for report in found),
        "accepted": sum(report.num_accepted for report in found),
        "quarantined": sum(report.num_quarantined for report in found),
    }


def snapshot(path: str) -> Json:
    """Build a DatasetSnapshot of all accepted pairs."""
    from pipelines.intake import snapshot as snapshots

    workspace = open_workspace(path)
    reports = snapshots.accepted_reports(workspace, workspace.project.snapshot.sources)
    return to_json(snapshots.build_snapshot(reports, workspace))


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
