"""Records of jobs in the store: the latest generation is found, and jobs without a record are not an error."""

from pathlib import Path
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobRecord
from pipelines.records.jobs import find_record, note_starter, save_record, starters
from pipelines.store.storage import Store, open_store

SPEC = "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path.as_uri())


def record(generation: int, **fields: Any) -> JobRecord:
    request = made_request(
        project="tiny", spec={"steps": 3}, spec_digest=SPEC, placement=Placement(num_processes=4), generation=generation
    )
    return JobRecord(request=request, device="gpu", **{"attempts": 1, "seconds": 900.0, **fields})


def test_the_latest_generation_is_found_whatever_was_saved_last(store: Store) -> None:
    for generation in (2, 10, 1):
        save_record(store, record(generation, seconds=float(generation)))
    found = find_record(store, "tiny", "train", SPEC)
    assert found == record(10, seconds=10.0)


def test_saving_again_replaces_and_others_are_not_mixed_up(store: Store) -> None:
    save_record(store, record(0))
    save_record(store, record(0, attempts=2))
    found = find_record(store, "tiny", "train", SPEC)
    assert found is not None
    assert found.attempts == 2
    assert find_record(store, "tiny", "encode", SPEC) is None
    assert find_record(store, "other", "train", SPEC) is None


def test_device_hours_are_wall_time_times_processes() -> None:
    assert record(0).device_hours == 1.0


def test_each_person_who_started_a_job_is_listed_once(store: Store) -> None:
    for person, generation in (("bob", 0), ("", 0), ("ada", 1), ("bob", 2)):
        note_starter(store, record(generation).request, person)
    assert starters(store, "tiny", "train", SPEC) == ["ada", "bob"]
    assert starters(store, "tiny", "soup", SPEC) == []
    assert starters(store, "other", "train", SPEC) == []
    assert find_record(store, "tiny", "train", SPEC) is None, "a starter is not a record of a finished job"
