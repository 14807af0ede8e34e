"""The result of a job task for the tasks after it, with a real store."""

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from pipelines.dispatch.operators import results
from pipelines.dispatch.operators.results import result_of
from pipelines.settings import load_settings
from pipelines.store.storage import Store, open_store


class Pulls:
    """XComs of the task `train`, by key and map index."""

    def __init__(self, found: dict[tuple[str, int | None], Any], map_index: int = -1) -> None:
        self.found = found
        self.map_index = map_index

    def xcom_pull(self, task_ids: str, map_indexes: int | None, key: str = "return_value") -> Any:
        """Airflow returns a list where `map_indexes` is left out, and an empty one where there is nothing."""
        assert task_ids == "train"
        return self.found.get((key, map_indexes))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())
    return open_store(load_settings().store_uri)


def within(monkeypatch: pytest.MonkeyPatch, found: dict[tuple[str, int | None], Any], map_index: int = -1) -> None:
    context = {"ti": Pulls(found, map_index)}
    monkeypatch.setattr(results, "get_current_context", lambda: context)


def test_a_value_needs_no_lookup() -> None:
    assert result_of("train", {"steps": 3}) == {"steps": 3}


def test_a_mapped_task_takes_the_result_of_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = {("return_value", 0): {"steps": 1}, ("return_value", 1): {"steps": 2}}
    within(monkeypatch, pushed, map_index=1)
    assert result_of("train") == {"steps": 2}


def test_a_task_that_is_not_mapped_takes_the_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    within(monkeypatch, {("return_value", None): {"steps": 3}})
    assert result_of("train") == {"steps": 3}


def test_a_finished_job_of_a_task_that_was_marked_is_found(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store.uri("models", "aa")
    within(monkeypatch, {("output_uri", 0): uri}, map_index=0)
    with pytest.raises(AirflowFailException, match=f"Task train left no result.*no finished output at {uri}"):
        result_of("train")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights").write_text("w")
    store.publish_folder(tmp_path / "out", uri, {"steps": 9})
    assert result_of("train") == {"steps": 9}


def test_a_task_that_was_marked_before_it_ran_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    within(monkeypatch, {})
    with pytest.raises(AirflowFailException, match=r"it never started its job. Clear train"):
        result_of("train", None)
