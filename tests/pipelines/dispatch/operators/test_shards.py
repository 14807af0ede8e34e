from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pipelines.dispatch.operators import shards

GROUP = {"shards": [{"uri": "file:///pairs/a.parquet"}], "first": 0, "num_shards": 1}
GOOD = {"shards": 1, "batches": 1, "pairs_in": 9, "accepted": 8, "quarantined": 1, "failures": []}


class Task:
    """Keeps what a task pushes, for every task of the run."""

    def __init__(self, found: Any = None) -> None:
        self.found = found
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        assert (task_ids, key) == ("ingest_shard", "counts")
        return self.found


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    own = Task()
    context: dict[str, Any] = {"ti": own}
    monkeypatch.setattr(shards, "get_current_context", lambda: context)
    own.pushed = context
    return own


def test_a_task_is_named_by_its_shard_or_by_the_range_of_its_shards(task: Task) -> None:
    shards.name_group(GROUP)
    assert task.pushed["shard_name"] == "a.parquet"
    shards.name_group({"shards": [], "first": 97, "num_shards": 98})
    assert task.pushed["shard_name"] == "shards 98 to 195"


@pytest.mark.parametrize(("may_pass", "kind"), [(False, AirflowFailException), (True, RuntimeError)])
def test_counts_are_left_although_the_task_fails(task: Task, may_pass: bool, kind: type[Exception]) -> None:
    failure = {"source": "votes", "shard": "b.parquet", "reason": "cut off", "may_pass": may_pass}
    counts = GOOD | {"shards": 2, "failures": [failure]}
    with pytest.raises(kind, match=r"1 of 2 shards could not be used"):
        shards.report_counts(counts, "1 of 2 shards could not be used")
    assert task.pushed["counts"] == counts
    assert shards.report_counts(GOOD, "") == GOOD


def test_counts_of_one_of_many_and_of_lost_tasks(task: Task) -> None:
    task.found = GOOD
    assert shards.counts_of("ingest_shard", [GROUP]) == [GOOD]
    task.found = [GOOD, None, GOOD]
    assert shards.counts_of("ingest_shard", [GROUP] * 3) == [GOOD, GOOD]
    task.found = None
    assert shards.counts_of("ingest_shard", [GROUP]) == []
    with pytest.raises(AirflowSkipException, match="no shards"):
        shards.counts_of("ingest_shard", [])
    with pytest.raises(AirflowFailException, match="list_shards"):
        shards.counts_of("ingest_shard", None)
