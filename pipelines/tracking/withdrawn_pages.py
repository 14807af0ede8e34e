"""Delete the pages in MLflow that may show withdrawn pairs: data reports, and Data Docs of shards."""

from collections.abc import Collection, Iterator
from typing import Any

from pipelines.settings import Settings
from pipelines.tracking.pages import data_docs_artifact, data_report_folder
from pipelines.tracking.runs import connect

_RUNS_AT_ONCE = 1000


def delete_pages(
    settings: Settings, project: str, *, snapshots: Collection[str], shards: Collection[tuple[str, str]]
) -> list[str]:
    """Delete data reports of snapshots, by digest, and Data Docs of (source, shard) from all runs of a project.

    Returns the paths of the deleted artifacts, RUN/PATH. The next report or ingest shows a new page.
    """
    deleted = []
    with connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(project)
        for run in _runs(client, experiment.experiment_id) if experiment else ():
            found = {*_listed(client, run, "data_report"), *_data_docs(client, run)}
            wanted = [data_report_folder(digest) for digest in snapshots]
            wanted += [data_docs_artifact(source, shard) for source, shard in shards]
            for path in wanted:
                if path in found:
                    _repository(run, settings).delete_artifacts(path)
                    deleted.append(f"{run.info.run_id}/{path}")
    return deleted


def _runs(client: Any, experiment_id: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_RUNS_AT_ONCE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _data_docs(client: Any, run: Any) -> Iterator[str]:
    for source in _listed(client, run, "data_docs"):
        yield from _listed(client, run, source)


def _listed(client: Any, run: Any, folder: str) -> list[str]:
    return [entry.path for entry in client.list_artifacts(run.info.run_id, folder)]


def _repository(run: Any, settings: Settings) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(run.info.artifact_uri, tracking_uri=settings.tracking_uri)
