"""Addresses behind the buttons of Airflow's task pages, from what a task pushed or returned."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.dispatch.operators import links
from pipelines.settings import Settings, load_settings
from pipelines.tracking import pages


class TaskInstance:
    task_id, map_index, dag_id = "gate", -1, "words.promote"

    def __init__(self, **pushed: Any) -> None:
        self.pushed = pushed

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.pushed.get(key)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("PLUMBLINE_MLFLOW_UI_URL", "https://mlflow.example.org/")
    return load_settings()


def test_a_jobs_run_is_the_one_that_the_task_pushed() -> None:
    link = links.MlflowRunLink()
    assert link.get_link(None, ti_key=TaskInstance(_link_mlflow_run="http://m/#/runs/1")) == "http://m/#/runs/1"
    assert link.get_link(None, ti_key=TaskInstance()) == ""


@pytest.mark.parametrize(
    ("value", "page"),
    [
        (
            {"model": "words", "version": 3},
            "https://mlflow.example.org/#/models/words/versions/3?workflowType=machine_learning",
        ),
        (
            {"model": "words", "moved": True, "to_version": 4},
            "https://mlflow.example.org/#/models/words/versions/4?workflowType=machine_learning",
        ),
        ({"model": "words", "moved": True, "to_version": None}, ""),
        (None, ""),
    ],
)
def test_a_version_is_named_by_a_candidate_or_a_promotion(value: Any, page: str) -> None:
    assert links.ModelVersionLink().get_link(None, ti_key=TaskInstance(return_value=value)) == page


def test_a_report_is_a_page_of_the_candidates_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def find_address(_settings: Settings, project: str, identity: tuple[str, str]) -> str:
        asked.append((project, identity))
        return "#/experiments/1/runs/abc"

    monkeypatch.setattr(pages, "find_address", find_address)
    decision = {"verdict": "hold", "candidate": {"model": "words", "version": 7}}
    page = links.ReportLink().get_link(None, ti_key=TaskInstance(return_value=decision))
    assert page.startswith("https://mlflow.example.org/#/experiments/1/runs/abc/artifacts/gate/report.html?")
    assert asked == [("words", ("plumbline.run_key", "words version 7"))]
    assert links.ReportLink().get_link(None, ti_key=TaskInstance()) == ""


def test_the_data_docs_of_a_shard_are_an_artifact_of_the_ingest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "find_address", lambda *given: "/".join(given[-1]))
    ti = SimpleNamespace(dag_id="words.ingest", run_id="manual__1")
    operator = SimpleNamespace(
        op_kwargs={"group": {"shards": [{"source": "a b", "uri": "file:///pairs/train 1.parquet"}]}}
    )
    found = links.DataDocsLink().get_link(operator, ti_key=ti)
    run = "https://mlflow.example.org/plumbline.run_key/words.ingest/manual__1"
    assert found.startswith(f"{run}/artifacts/data_docs/a%20b/train%201.parquet.html?")
    many = SimpleNamespace(op_kwargs={"group": {"shards": [], "listing_uri": "file:///store/listing.json"}})
    assert links.DataDocsLink().get_link(many, ti_key=ti) == "", "there is no single page"


def test_a_data_report_is_found_by_the_digest_of_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(pages, "find_address", lambda *given: asked.append(given[1:]) or "#/experiments/1/runs/abc")
    ti = TaskInstance(return_value={"content_digest": "5" * 64})
    ti.dag_id = "words.train"
    page = links.DataReportLink().get_link(None, ti_key=ti)
    run = "https://mlflow.example.org/#/experiments/1/runs/abc"
    assert page == f"{run}/artifacts/data_report/{'5' * 12}/index.html?workflowType=machine_learning"
    assert asked == [("words", ("data_report.snapshot", "5" * 64))]
    failed = TaskInstance()
    failed.dag_id = "words.train"
    assert links.DataReportLink().get_link(None, ti_key=failed) == ""


def test_without_a_server_there_is_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("PLUMBLINE_MLFLOW_UI_URL")
    decision = {"candidate": {"model": "words", "version": 7}}
    assert links.report_page(decision, load_settings()) == ""
    assert links.version_page({"model": "words", "version": 3}, load_settings()) == ""


def test_links_are_added_to_the_task_behind_a_call() -> None:
    called = SimpleNamespace(operator=SimpleNamespace(operator_extra_links=()))
    links.add_links(called, links.ReportLink(), links.ModelVersionLink())
    assert [link.name for link in called.operator.operator_extra_links] == ["Report", "Model version"]
