import errno
from pathlib import Path

import pytest

from pipelines.contracts.pairs import SourceShard
from pipelines.intake.shard_groups import check_failures, failure_message, group_shards, read_each, shards_of
from pipelines.settings import Settings
from pipelines.store.folders import NoSpaceError, NotWritableError
from pipelines.store.storage import Store, open_store

MOST = 1024
"""Airflow's default limit of mapped tasks."""


def shard(number: int) -> SourceShard:
    return SourceShard(source="votes", uri=f"file:///pairs/{number:06d}.parquet", num_bytes=1, fingerprint=str(number))


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store_uri)


def test_up_to_the_limit_each_shard_is_a_group(store: Store) -> None:
    shards = [shard(number) for number in range(MOST)]
    groups = group_shards(shards, store, most=MOST)
    assert [shards_of(group, store) for group in groups] == [(own,) for own in shards]
    assert store.list_uris(store.uri("raw")) == [], "small sources need no listing"


def test_a_hundred_thousand_shards_are_small_groups_of_nearly_equal_size(store: Store) -> None:
    shards = [shard(number) for number in range(100_000)]
    groups = group_shards(shards, store, most=MOST)
    assert len(groups) == MOST
    assert {group.num_shards for group in groups} == {97, 98}
    assert max(len(group.model_dump_json()) for group in groups) < 400, "a group travels through Airflow's database"
    middle = groups[MOST // 2]
    assert shards_of(groups[0], store) == tuple(shards[:97])
    assert shards_of(middle, store) == tuple(shards[middle.first : middle.first + middle.num_shards])
    assert sum(group.num_shards for group in groups) == 100_000
    assert group_shards(shards, store, most=MOST) == groups


def test_every_shard_is_tried_and_every_failure_is_named() -> None:
    def read(own: SourceShard) -> str:
        if own.fingerprint == "1":
            raise ValueError("it is\ncut off")
        if own.fingerprint == "3":
            raise ConnectionError("no answer")
        return own.fingerprint

    values, failures = read_each([shard(number) for number in range(5)], read)
    assert values == ["0", "2", "4"]
    assert [(own.shard, own.reason, own.may_pass) for own in failures] == [
        ("000001.parquet", "it is cut off", False),
        ("000003.parquet", "no answer", True),
    ]
    message = failure_message(failures, 5)
    assert message.startswith("2 of 5 shards could not be used: \n- votes, 000001.parquet: it is cut off\n- votes,")


def test_the_limit_is_a_share_and_a_long_list_is_cut() -> None:
    _, failures = read_each([shard(number) for number in range(30)], lambda own: Path("/nowhere").read_text())
    check_failures(failures[:1], 4, 0.25)
    check_failures([], 0, 0.0)
    with pytest.raises(ValueError, match=r"more than max_failed_shards = 0.25 of \[validation\]"):
        check_failures(failures[:2], 7, 0.25)
    with pytest.raises(ValueError, match=r"30 of 30 shards (.|\n)* and 10 more"):
        check_failures(failures, 30, 0.5)


@pytest.mark.parametrize(
    "error", [NotWritableError("read-only"), NoSpaceError(errno.EFBIG, "too large"), OSError(errno.ENOSPC, "full")]
)
def test_a_store_that_cannot_be_written_is_no_failure_of_a_shard(error: Exception) -> None:
    tried = []

    def read(own: SourceShard) -> str:
        tried.append(own)
        raise error

    with pytest.raises(type(error)):
        read_each([shard(0), shard(1)], read)
    assert len(tried) == 1
