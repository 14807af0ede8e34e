"""The mapped task that reads shards: its name, and the counts that it leaves whether or not it fails."""

from typing import Any, cast

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

_COUNTS = "counts"
"""XCom key: a task that fails has no return value."""


def name_group(group: dict[str, Any]) -> None:
    """Name this mapped task by its shard, or by the positions of its shards in the listing."""
    first, number = group["first"], group["num_shards"]
    name = f"shards {first + 1} to {first + number}"
    if group["shards"]:
        name = group["shards"][0]["uri"].rsplit("/", 1)[-1]
    _context()["shard_name"] = name


def report_counts(counts: dict[str, Any], message: str) -> dict[str, Any]:
    """Leave the counts for `counts_of`. An error with this message, if there is one, about shards that are not used.

    It is RuntimeError, so that the task is tried again, when that may help one of them; else AirflowFailException.
    """
    _context()["ti"].xcom_push(_COUNTS, counts)
    if message:
        again = any(failure["may_pass"] for failure in counts["failures"])
        raise (RuntimeError if again else AirflowFailException)(message)
    return counts


def counts_of(task_id: str, groups: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the counts that the mapped tasks of this DAG run left, also those of tasks that failed.

    AirflowSkipException when there was no group, AirflowFailException when they were not listed.
    """
    if groups is None:
        raise AirflowFailException("The shards were not listed. Read the log of the task list_shards.")
    if not groups:
        raise AirflowSkipException("The sources have no shards.")
    # Without map_indexes, the values of all mapped tasks; a single one is returned as itself.
    found = _context()["ti"].xcom_pull(task_ids=task_id, key=_COUNTS)
    return [counts for counts in ([found] if isinstance(found, dict) else found or ()) if counts]


def _context() -> dict[str, Any]:
    """Return the context, to which a name for Airflow's lists may be added."""
    return cast("dict[str, Any]", get_current_context())
