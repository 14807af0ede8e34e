"""Addresses of MLflow's pages, asked of a real server."""

import uuid

import pytest

from pipelines.settings import Settings
from pipelines.tracking import pages, runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def project() -> str:
    return f"p{uuid.uuid4().hex[:8]}"


def test_a_page_is_found_by_a_tag(tracked: Settings, project: str) -> None:
    identity = (runs.RUN_KEY_TAG, f"{project} version 3")
    assert pages.find_page(tracked, project, identity) == ""
    run_id = runs.parent_run(tracked, project=project, key=identity[1], tags={})
    with runs.connect(tracked.tracking_uri) as client:
        experiment = client.get_run(run_id).info.experiment_id
    path = f"#/experiments/{experiment}/runs/{run_id}"
    assert pages.find_address(tracked, project, identity) == path == pages.run_address(tracked, run_id)
    view = "?workflowType=machine_learning"
    assert pages.find_page(tracked, project, identity) == f"{tracked.tracking_uri}/{path}{view}"
    assert pages.experiment_page(tracked, project) == f"{tracked.tracking_uri}/#/experiments/{experiment}/runs{view}"
    assert pages.report_page(tracked, project, 3).startswith(
        f"{tracked.tracking_uri}/{path}/artifacts/gate/report.html"
    )
    assert pages.report_page(tracked, project, 4) == ""


def test_a_browser_may_know_the_server_by_another_address(tracked: Settings, project: str) -> None:
    outside = tracked.model_copy(update={"mlflow_ui_url": "https://mlflow.example.org/"})
    run_id = runs.parent_run(tracked, project=project, key="k", tags={})
    assert pages.run_page(outside, run_id).startswith("https://mlflow.example.org/#/experiments/")
    assert (
        pages.version_page(outside, project, 2)
        == f"https://mlflow.example.org/#/models/{project}/versions/2?workflowType=machine_learning"
    )


def test_without_a_server_there_are_no_pages(tracked: Settings) -> None:
    embedded = tracked.model_copy(update={"tracking_uri": f"sqlite:///{tracked.state_dir}/nowhere.db"})
    assert pages.run_page(embedded, "abc") == pages.find_page(embedded, "p", (runs.RUN_KEY_TAG, "k")) == ""
    assert pages.version_page(embedded, "p", 1) == pages.model_page(embedded, "p") == ""
    assert not (tracked.state_dir / "nowhere.db").exists(), "asking for an address creates nothing"
