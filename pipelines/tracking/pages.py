"""Addresses of MLflow's pages: paths for links between its pages, and whole addresses for other pages and logs."""

from urllib.parse import quote

from pipelines.settings import Settings
from pipelines.tracking.runs import DATA_REPORT_TAG, RUN_KEY_TAG, _first_run, connect

TRAINING_VIEW = "?workflowType=machine_learning"
"""Makes MLflow open the page of training runs; by default it opens its GenAI view."""


def candidate_key(model: str, version: int) -> str:
    """Return the key of the run that is the page of a candidate."""
    return f"{model} version {version}"


def run_address(settings: Settings, run_id: str) -> str:
    """Return the path of a run within MLflow's pages, for a link from another of its pages."""
    with connect(settings.tracking_uri) as client:
        return f"#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"


def find_address(settings: Settings, project: str, identity: tuple[str, str]) -> str:
    """Return the path of the first run with this tag within MLflow's pages; empty when there is none."""
    with connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(project)
        found = _first_run(client, experiment.experiment_id, identity) if experiment else None
    return f"#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}" if found else ""


def find_page(settings: Settings, project: str, identity: tuple[str, str]) -> str:
    """Return the browser's address of the first run with this tag; empty when there is none, or no MLflow server."""
    return _whole(settings, find_address(settings, project, identity) if settings.mlflow_pages else "")


def run_page(settings: Settings, run_id: str) -> str:
    """Return the address of a run's page for a browser; empty without an MLflow server."""
    return _whole(settings, run_address(settings, run_id) if settings.mlflow_pages else "")


def experiment_page(settings: Settings, project: str) -> str:
    """Return the address of a project's runs for a browser; empty before its first run, or without a server."""
    with connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(project) if settings.mlflow_pages else None
    return _whole(settings, f"#/experiments/{experiment.experiment_id}/runs" if experiment else "")


def model_page(settings: Settings, model: str) -> str:
    """Return the address of a model's versions for a browser; empty without an MLflow server."""
    return _whole(settings, f"#/models/{model}")


def version_page(settings: Settings, model: str, version: int) -> str:
    """Return the address of a version's page for a browser; empty without an MLflow server."""
    return _whole(settings, f"#/models/{model}/versions/{version}")


def data_docs_artifact(source: str, shard: str) -> str:
    """Return the path of a shard's Data Docs among the artifacts of an ingest run. `shard` is a file name."""
    return f"data_docs/{quote(source, safe='')}/{quote(shard, safe='')}.html"


def data_docs_page(settings: Settings, project: str, *, run_key: str, source: str, shard: str) -> str:
    """Return the address of a shard's Data Docs; empty before the ingest run is in MLflow, or without a server."""
    return _artifact_page(settings, project, run_key, data_docs_artifact(source, shard))


def data_report_folder(digest: str) -> str:
    """Return the folder of a snapshot's data report among the artifacts of a run."""
    return f"data_report/{digest[:12]}"


def data_report_page(settings: Settings, project: str, digest: str) -> str:
    """Return the address of the data report of the snapshot with this digest; empty before it is in MLflow, for an
    empty digest, or without a server."""
    identity = (DATA_REPORT_TAG, digest)
    address = find_address(settings, project, identity) if settings.mlflow_pages and digest else ""
    return _whole(settings, f"{address}/artifacts/{data_report_folder(digest)}/index.html" if address else "")


def report_page(settings: Settings, model: str, version: int) -> str:
    """Return the address of the gate's last report on a version; empty before a decision, or without a server."""
    return _artifact_page(settings, model, candidate_key(model, version), "gate/report.html")


def contact_sheet_page(settings: Settings, model: str, version: int) -> str:
    """Return the address of the contact sheet of the last evaluation of a version; empty like `report_page`."""
    return _artifact_page(settings, model, candidate_key(model, version), "gate/contact_sheet.png")


def _artifact_page(settings: Settings, project: str, run_key: str, artifact: str) -> str:
    address = find_address(settings, project, (RUN_KEY_TAG, run_key)) if settings.mlflow_pages else ""
    return _whole(settings, f"{address}/artifacts/{artifact}" if address else "")


def _whole(settings: Settings, address: str) -> str:
    """Return the browser's address of a path within MLflow's pages; empty for an empty path or without a server."""
    return f"{settings.mlflow_pages}/{address}{TRAINING_VIEW}" if settings.mlflow_pages and address else ""
