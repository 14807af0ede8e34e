"""Links on a task's page in Airflow that open MLflow: the run of a job, a candidate's report, a model version.

A task pushes the address under the link's XCom key, or it follows from the value that the task returned. Airflow stores
what `get_link` returns when the task ends, so a link goes on working after the task's code has changed.
"""

from collections.abc import Mapping
from typing import Any

import attrs
from airflow.sdk import BaseOperatorLink, get_current_context

from pipelines.settings import Settings, load_settings
from pipelines.tracking import pages

__all__ = [
    "MLFLOW_RUN_KEY",
    "OWN_NAME",
    "DataDocsLink",
    "DataReportLink",
    "MlflowRunLink",
    "ModelVersionLink",
    "ReportLink",
    "add_links",
    "named",
]

MLFLOW_RUN_KEY = "_link_mlflow_run"
OWN_NAME = "{{ own_name }}"
"""`map_index_template` of a task that returns `named(...)`."""


@attrs.define()
class MlflowRunLink(BaseOperatorLink):
    """The MLflow run of the task's job; there from the moment the job is submitted."""

    name: str = "MLflow run"

    @property
    def xcom_key(self) -> str:
        """See BaseOperatorLink."""
        return MLFLOW_RUN_KEY

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address that the task pushed; empty without an MLflow server."""
        return _pulled(ti_key, self.xcom_key) or ""


@attrs.define()
class ModelVersionLink(BaseOperatorLink):
    """The model version that the task registered, promoted or restored."""

    name: str = "Model version"

    @property
    def xcom_key(self) -> str:
        """See BaseOperatorLink."""
        return "_link_model_version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the version's page; empty for the base model, without a value and without an MLflow server."""
        return version_page(_pulled(ti_key, "return_value"), load_settings())


@attrs.define()
class ReportLink(BaseOperatorLink):
    """The report on the decision that the task returned."""

    name: str = "Report"

    @property
    def xcom_key(self) -> str:
        """See BaseOperatorLink."""
        return "_link_report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the report's page in MLflow; empty without a value and without an MLflow server."""
        return report_page(_pulled(ti_key, "return_value"), load_settings())


@attrs.define()
class DataDocsLink(BaseOperatorLink):
    """The Data Docs of the task's first shard, whether or not its batch passed."""

    name: str = "Data Docs"

    @property
    def xcom_key(self) -> str:
        """See BaseOperatorLink."""
        return "_link_data_docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the only shard of the task's argument `group`; empty for many, or without a server."""
        shards = operator.op_kwargs["group"]["shards"]
        if not shards:
            return ""
        [shard] = shards
        return pages.data_docs_page(
            load_settings(),
            ti_key.dag_id.rpartition(".")[0],
            run_key=f"{ti_key.dag_id}/{ti_key.run_id}",
            source=shard["source"],
            shard=shard["uri"].rsplit("/", 1)[-1],
        )


@attrs.define()
class DataReportLink(BaseOperatorLink):
    """The data report of the snapshot that the task returned."""

    name: str = "Data report"

    @property
    def xcom_key(self) -> str:
        """See BaseOperatorLink."""
        return "_link_data_report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the report's page in MLflow; empty without a value and without an MLflow server."""
        snapshot = _pulled(ti_key, "return_value")
        project = ti_key.dag_id.rpartition(".")[0]
        return pages.data_report_page(load_settings(), project, snapshot["content_digest"]) if snapshot else ""


def add_links(task: Any, *links: BaseOperatorLink) -> None:
    """Add links to a task that a decorated function makes. `task` is what the call in the DAG file returned."""
    task.operator.operator_extra_links = links


def named(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the value, after naming this mapped task in Airflow's lists."""
    get_current_context()["own_name"] = name  # type: ignore[typeddict-unknown-key]
    return value


def version_page(value: Mapping[str, Any] | None, settings: Settings) -> str:
    """Return the page of the version that a CandidateVersion or a Promotion names."""
    version = (value or {}).get("version") or (value or {}).get("to_version")
    if not value or not version:
        return ""
    return pages.version_page(settings, str(value["model"]), int(version))


def report_page(decision: Mapping[str, Any] | None, settings: Settings) -> str:
    """Return the report's page within the candidate's page."""
    if not decision:
        return ""
    candidate = decision["candidate"]
    return pages.report_page(settings, candidate["model"], candidate["version"])


def _pulled(ti: Any, key: str) -> Any:
    return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
