"""The MLflow run of a pipeline run, with the data that it trained on and a link to the data's report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alignment.contracts.data import DatasetSnapshot
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.tracking import pages, runs


@contextmanager
def pipeline_run(
    project: Project, settings: Settings, run_key: str, snapshots: Sequence[DatasetSnapshot]
) -> Iterator[str]:
    """Yield the id of the run of a pipeline run; finish it when the pipeline succeeded."""
    tags = runs.airflow_tags(settings, run_key)
    run_id = runs.parent_run(settings, project=project.name, key=run_key, tags=tags)
    own = runs.run_tags(settings, run_id).get(runs.DATA_REPORT_TAG, "") if snapshots else ""
    for snapshot in {snapshot.content_digest: snapshot for snapshot in snapshots}.values():
        page = pages.data_report_page(settings, project.name, snapshot.content_digest)
        # Labels by judges make another snapshot of the same pairs; the report of this run is about those pairs.
        page = page or pages.data_report_page(settings, project.name, own)
        runs.log_dataset(settings, run_id, snapshot, context="training", page=page)
    yield run_id
    runs.finish_run(settings, run_id, "FINISHED")


def log_data_report(settings: Settings, project: str, *, run_key: str, digest: str, folder: Path) -> None:
    """Log the files of a snapshot's data report, in `folder`, to the run of a pipeline run, which stays open."""
    tags = {**runs.airflow_tags(settings, run_key), runs.DATA_REPORT_TAG: digest}
    run_id = runs.parent_run(settings, project=project, key=run_key, tags=tags)
    runs.log_artifacts(settings, run_id, folder, pages.data_report_folder(digest))
