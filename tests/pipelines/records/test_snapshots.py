"""A snapshot is named by its place in the series or by the beginning of its digest."""

from datetime import UTC, datetime

import pytest

from pipelines.contracts.data_report import SnapshotRecord
from pipelines.records.snapshots import find_snapshot, last_snapshot, snapshot_series
from pipelines.settings import Settings
from pipelines.store.storage import open_store


def record(digest: str) -> SnapshotRecord:
    return SnapshotRecord(
        at=datetime(2026, 6, 1, tzinfo=UTC),
        snapshot_uri=f"file:///store/snapshots/{digest}",
        snapshot_digest=digest.ljust(64, "0"),
        num_pairs=1,
        report_uri="file:///report.html",
        figures_uri="file:///report.json",
    )


A, B, C = record("aa1"), record("ab2"), record("c3")


@pytest.mark.parametrize(("name", "found"), [("last", C), ("previous", B), ("aa", A), ("AB", B), ("c3" + "0" * 62, C)])
def test_a_snapshot_is_found_by_place_or_prefix(name: str, found: SnapshotRecord) -> None:
    assert find_snapshot([A, B, C], name, "tiny") == found


def test_a_snapshot_that_came_back_is_one_snapshot() -> None:
    assert find_snapshot([A, B, A], "aa", "tiny") == A
    assert find_snapshot([A, B, A], "previous", "tiny") == B


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a", "2 snapshots of 'tiny' begin with 'a'. Give more digits, 'last' or 'previous'. Newest of them: ab2"),
        ("ff", "No snapshot of 'tiny' begins with 'ff'. Give more digits, 'last' or 'previous'. Newest of them: c3"),
        ("", "No snapshot of 'tiny' begins with ''"),
    ],
)
def test_an_unknown_or_ambiguous_name_lists_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        find_snapshot([A, B, C], name, "tiny")


def test_before_the_first_and_second_snapshot_the_command_is_named() -> None:
    with pytest.raises(ValueError, match=r"has no snapshot yet\. Run `plumbline snapshot tiny`"):
        find_snapshot([], "last", "tiny")
    with pytest.raises(ValueError, match=r"has one snapshot, aa1000000000, and none before it"):
        find_snapshot([A], "previous", "tiny")


def test_the_series_is_read_in_order_beside_the_reports(settings: Settings) -> None:
    store = open_store(settings.store_uri)
    assert last_snapshot(store, "tiny") is None
    for each in (A, B):
        snapshot_series(store, "tiny").append(lambda _number, _last, each=each: each)
    store.write_bytes(store.uri("data_reports", "tiny", "f00", "report.json"), b"{}")
    assert snapshot_series(store, "tiny").entries() == [A, B]
    assert last_snapshot(store, "tiny") == B
    assert last_snapshot(store, "other") is None
