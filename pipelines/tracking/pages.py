"""Addresses of MLflow's pages: paths for links between its pages, and whole addresses for other pages and logs."""

from urllib.parse import quote

from pipelines.settings import Settings
from pipelines.tracking.runs import RUN_KEY_TAG, _first_run, connect

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
    address = find_address(settings, project, identity) if settings.mlflow_pages else ""
    return f"{settings.mlflow_pages}/{address}" if address else ""


def run_page(settings: Settings, run_id: str) -> str:
    """Return the address of a run's page for a browser; empty without an MLflow server."""
    if not settings.mlflow_pages:
        return ""
    return f"{settings.mlflow_pages}/{run_address(settings, run_id)}"


def experiment_page(settings: Settings, project: str) -> str:
    """Return the address of a project's runs for a browser; empty before its first run, or without a server."""
    with connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(project) if settings.mlflow_pages else None
    return f"{settings.mlflow_pages}/#/experiments/{experiment.experiment_id}/runs" if experiment else ""


def model_page(settings: Settings, model: str) -> str:
    """Return the address of a model's versions for a browser; empty without an MLflow server."""
    return f"{settings.mlflow_pages}/#/models/{model}" if settings.mlflow_pages else ""


def version_page(settings: Settings, model: str, version: int) -> str:
    """Return the address of a version's page for a browser; empty without an MLflow server."""
    pages = model_page(settings, model)
    return f"{pages}/versions/{version}" if pages else ""


def data_docs_artifact(source: str, shard: str) -> str:
    """Return the path of a shard's Data Docs among the artifacts of an ingest run. `shard` is a file name."""
    return f"data_docs/{quote(source, safe='')}/{quote(shard, safe='')}.html"


def data_docs_page(settings: Settings, project: str, *, run_key: str, source: str, shard: str) -> str:
    """Return the address of a shard's Data Docs; empty before the ingest run is in MLflow, or without a server."""
    page = find_page(settings, project, (RUN_KEY_TAG, run_key))
    return f"{page}/artifacts/{data_docs_artifact(source, shard)}{TRAINING_VIEW}" if page else ""


def report_page(settings: Settings, model: str, version: int) -> str:
    """Return the address of the gate's last report on a version; empty before a decision, or without a server."""
    page = find_page(settings, model, (RUN_KEY_TAG, candidate_key(model, version)))
    return f"{page}/artifacts/gate/report.html{TRAINING_VIEW}" if page else ""
