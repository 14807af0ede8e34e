"""The result of a job task for the tasks after it, also where a person marked the job task as success.

Airflow lets a run go on after such a mark, with nothing where the result should be. The task has noted the address of
its job's output before it began to wait, so a job that has finished is found there; else the task after it fails.
"""

from collections.abc import Mapping
from typing import Any, cast

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException

from pipelines.dispatch.operators.train_job import OUTPUT_KEY
from pipelines.settings import load_settings
from pipelines.store.storage import open_store


def result_of(task_id: str, value: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return `value`, which is the result of a job task, or look the result up when there is none.

    In a mapped task without a `value` this is the result of the other task's instance with the same index.
    AirflowFailException names the task and the next step when its job has no finished output.
    """
    if value is not None:
        return value
    task_instance = cast("Mapping[str, Any]", get_current_context())["ti"]
    index = task_instance.map_index
    given: dict[str, Any] = {"task_ids": task_id, "map_indexes": None if index is None or index < 0 else index}
    result: dict[str, Any] | None = task_instance.xcom_pull(**given)
    if result is None:
        result = _published(task_id, task_instance.xcom_pull(key=OUTPUT_KEY, **given))
    return result


def _published(task_id: str, uri: str | None) -> dict[str, Any]:
    settings = load_settings()
    manifest = open_store(settings.store_uri, settings).read_manifest(uri) if uri else None
    if manifest is None:
        missing = f"its job has no finished output at {uri}" if uri else "it never started its job"
        raise AirflowFailException(
            f"Task {task_id} left no result (it was marked as success, or its row was deleted), and {missing}. Clear"
            f" {task_id}, or trigger another run: the job continues from its last checkpoint."
        )
    return manifest.value
