"""The run of a pipeline run links the data report of what it trained on, on a real server."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignment.contracts.data import DatasetSnapshot
from pipelines.settings import Settings
from pipelines.tracking import pages, runs
from pipelines.tracking.pipeline_run import log_data_report, pipeline_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def project() -> Any:
    return SimpleNamespace(name=f"p{uuid.uuid4().hex[:8]}")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("<p>pairs</p>")
    (folder / "report.json").write_text("{}")
    return folder


def source_of(settings: Settings, run_id: str) -> tuple[str, dict[str, str]]:
    with runs.connect(settings.tracking_uri) as client:
        (entry,) = client.get_run(run_id).inputs.dataset_inputs
    return entry.dataset.source_type, json.loads(entry.dataset.source)


def status_of(settings: Settings, run_id: str) -> str:
    with runs.connect(settings.tracking_uri) as client:
        return str(client.get_run(run_id).info.status)


def test_the_dataset_of_a_run_links_its_data_report(
    tracked: Settings, project: Any, report: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    snapshot = make_snapshot(uri="file:///store/snapshots/0")
    digest = snapshot.content_digest
    assert pages.data_report_page(tracked, project.name, digest) == ""
    log_data_report(tracked, project.name, run_key="k", digest=digest, folder=report)
    with pipeline_run(project, tracked, "k", [snapshot]) as run_id:
        assert status_of(tracked, run_id) == "RUNNING", "the report does not end the run"
    assert status_of(tracked, run_id) == "FINISHED"

    page = pages.data_report_page(tracked, project.name, digest)
    assert page.startswith(f"{tracked.tracking_uri}/#/experiments/")
    assert f"/runs/{run_id}/artifacts/data_report/{digest[:12]}/index.html" in page
    assert source_of(tracked, run_id) == ("http", {"uri": snapshot.uri, "url": page})
    with runs.connect(tracked.tracking_uri) as client:
        found = {item.path.rpartition("/")[2] for item in client.list_artifacts(run_id, f"data_report/{digest[:12]}")}
    assert found == {"index.html", "report.json"}


def test_pairs_that_judges_labelled_link_the_report_on_those_pairs(
    tracked: Settings, project: Any, report: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    log_data_report(tracked, project.name, run_key="k", digest="4" * 64, folder=report)
    with pipeline_run(project, tracked, "k", [make_snapshot(content_digest="6" * 64)]) as run_id:
        pass
    assert f"/data_report/{'4' * 12}/index.html" in source_of(tracked, run_id)[1]["url"]


def test_without_a_report_the_source_has_no_link(
    tracked: Settings, project: Any, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    snapshot = make_snapshot()
    with pipeline_run(project, tracked, "k", [snapshot]) as run_id:
        pass
    assert source_of(tracked, run_id) == ("plumbline", {"uri": snapshot.uri})


def test_a_pipeline_run_that_ends_early_is_finished_and_none_is_made(
    tracked: Settings, project: Any, report: Path
) -> None:
    runs.finish_if_open(tracked, project=project.name, key="k")
    log_data_report(tracked, project.name, run_key="k", digest="4" * 64, folder=report)
    runs.finish_if_open(tracked, project=project.name, key="another")
    run_id = runs.parent_run(tracked, project=project.name, key="k", tags={})
    assert status_of(tracked, run_id) == "RUNNING"
    runs.finish_if_open(tracked, project=project.name, key="k")
    assert status_of(tracked, run_id) == "FINISHED"
