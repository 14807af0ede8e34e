"""The ledger: order and chain of entries, detection of changes, and concurrent promotions."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from alignment.contracts.values import canonical_json
from pipelines.contracts.release import LedgerEntry
from pipelines.release.champion import ledger
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store


def move(settings: Settings, from_version: int | None, to_version: int | None, **changes: Any) -> LedgerEntry:
    facts: dict[str, Any] = {
        "actor": "tester",
        "action": "promote",
        "weights_digest": f"{to_version}" * 64,
        "decision_digest": "d" * 64,
        "report_uri": "file:///report",
    }
    return ledger.append(
        "shapes",
        open_store(settings.store_uri, settings),
        from_version=from_version,
        to_version=to_version,
        **{**facts, **changes},
    )


def path_of(settings: Settings, sequence: int) -> Path:
    return Path(urlsplit(settings.store_uri).path) / "ledger" / "shapes" / f"{sequence:06d}.json"


def three_moves(settings: Settings) -> tuple[LedgerEntry, ...]:
    return (
        move(settings, None, 1),
        move(settings, 1, 2),
        move(settings, 2, 1, action="rollback", decision_digest=None, report_uri=None, reason="too dark"),
    )


def test_entries_are_read_in_order_chained_and_numbered(settings: Settings) -> None:
    assert ledger.entries("shapes", open_store(settings.store_uri, settings)) == ()
    written = three_moves(settings)
    assert ledger.entries("shapes", open_store(settings.store_uri, settings)) == written
    assert [entry.sequence for entry in written] == [1, 2, 3]
    assert [entry.previous_digest for entry in written] == [None, written[0].digest, written[1].digest]
    assert written[2].reason == "too dark"
    assert ledger.entries("another", open_store(settings.store_uri, settings)) == ()


def test_a_move_from_another_champion_than_the_ledgers_is_refused(settings: Settings) -> None:
    move(settings, None, 1)
    with pytest.raises(ValueError, match="champion is version 1, not the base model"):
        move(settings, None, 2)
    assert len(ledger.entries("shapes", open_store(settings.store_uri, settings))) == 1


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("actor", "mallory", "entry 3: previous_digest"),
        ("weights_digest", "a" * 64, "entry 3: previous_digest"),
        ("to_version", 7, "entry 3: previous_digest"),
        ("previous_digest", "a" * 64, "entry 2: previous_digest"),
        ("from_version", 5, "entry 2: from_version"),
        ("sequence", 4, "entry 2: sequence"),
        ("model", "another", "entry 2: model"),
        ("note", "hello", "entry 2 is not readable"),
    ],
)
def test_a_changed_entry_is_detected(settings: Settings, field: str, value: Any, complaint: str) -> None:
    three_moves(settings)
    path = path_of(settings, 2)
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=complaint):
        ledger.entries("shapes", open_store(settings.store_uri, settings))
    with pytest.raises(ValueError, match="restore the folder"):
        move(settings, 1, 3)


def test_a_missing_entry_is_detected(settings: Settings) -> None:
    three_moves(settings)
    path_of(settings, 2).unlink()
    with pytest.raises(ValueError, match=r"expected 000002\.json, found 000003\.json"):
        ledger.entries("shapes", open_store(settings.store_uri, settings))


def test_a_stray_file_does_not_stop_a_rollback(settings: Settings) -> None:
    three_moves(settings)
    known = ledger.entries("shapes", open_store(settings.store_uri, settings))
    for name in (".DS_Store", "000003b.json", "000001.json.bak"):
        path_of(settings, 3).with_name(name).write_text("{}")
    assert ledger.entries("shapes", open_store(settings.store_uri, settings)) == known
    assert move(settings, 1, 2).sequence == 4


def test_of_two_concurrent_promotions_the_second_reads_again_and_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(settings, None, 1)
    create = Store.create_bytes

    def create_after_another(store: Store, uri: str, data: bytes) -> bool:
        monkeypatch.setattr(Store, "create_bytes", create)
        move(settings, 1, 2, actor="faster")
        return create(store, uri, data)

    monkeypatch.setattr(Store, "create_bytes", create_after_another)
    with pytest.raises(ValueError, match="champion is version 2, not version 1"):
        move(settings, 1, 3)
    assert [
        (entry.to_version, entry.actor) for entry in ledger.entries("shapes", open_store(settings.store_uri, settings))
    ] == [
        (1, "tester"),
        (2, "faster"),
    ]


def test_a_put_whose_response_was_lost_counts_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Store.create_bytes

    def create_and_lose_the_response(store: Store, uri: str, data: bytes) -> bool:
        create(store, uri, data)
        return False

    monkeypatch.setattr(Store, "create_bytes", create_and_lose_the_response)
    entry = move(settings, None, 1)
    assert ledger.entries("shapes", open_store(settings.store_uri, settings)) == (entry,)


@pytest.mark.parametrize(
    ("story", "way"),
    [
        ("", (None,)),
        ("promote 1, promote 2, promote 3", (3, 2, 1, None)),
        ("promote 1, promote 2, promote 3, rollback 2", (2, 1, None)),
        ("promote 1, promote 2, promote 3, rollback 2, rollback 1", (1, None)),
        ("promote 1, promote 2, rollback 1, promote 3", (3, 1, None)),
        ("promote 1, promote 2, rollback 1, forward 2", (2, 1, None)),
        ("promote 1, promote 2, rollback 1, restore 1, forward 2", (2, 1, None)),
        ("promote 1, promote 2, rollback base", (None,)),
        ("promote 1, promote 2, rollback base, promote 3", (3, None)),
        ("promote 1, promote 2, promote 1", (1, 2, None)),
        ("promote 1, promote 2, rollback 1, promote 2", (2, 1, None)),
    ],
)
def test_the_way_back_excludes_versions_that_a_rollback_left(
    settings: Settings, story: str, way: tuple[int | None, ...]
) -> None:
    here = None
    for step in filter(None, story.split(", ")):
        action, _, place = step.partition(" ")
        to_version = None if place == "base" else int(place)
        move(settings, here, to_version, action=action, weights_digest="1" * 64)
        here = to_version
    assert ledger.way_back(ledger.entries("shapes", open_store(settings.store_uri, settings))) == way


def test_the_last_promotion_of_a_version_is_found(settings: Settings) -> None:
    first, _, again = move(settings, None, 1), move(settings, 1, 2), move(settings, 2, 1)
    move(settings, 1, 5, action="rollback")
    known = ledger.entries("shapes", open_store(settings.store_uri, settings))
    assert ledger.promotion_of(known[:2], 1) == first
    assert ledger.promotion_of(known, 1) == again
    assert ledger.promotion_of(known, 5) is None, "a rollback is not a promotion"
    assert ledger.promoted_versions(known) == (1, 2)


@pytest.mark.parametrize(
    ("garbage", "message"),
    [(b"\xff\xfe garbage", "Invalid JSON"), (b"{}", "sequence: Field required"), (b"[]", "an object")],
)
def test_an_unreadable_entry_is_reported_in_one_line(settings: Settings, garbage: bytes, message: str) -> None:
    move(settings, None, 1)
    path_of(settings, 1).chmod(0o644)
    path_of(settings, 1).write_bytes(garbage)
    with pytest.raises(ValueError, match="entry 1 is not readable") as raised:
        ledger.entries("shapes", open_store(settings.store_uri, settings))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "http" not in str(raised.value)


def test_aliases_are_compared_with_the_last_entry(settings: Settings) -> None:
    written = three_moves(settings)
    assert ledger.agrees_with_aliases((), None)
    assert not ledger.agrees_with_aliases((), 1)
    assert ledger.agrees_with_aliases(written, 1)
    assert not ledger.agrees_with_aliases(written, 2)
    assert not ledger.agrees_with_aliases(written, None)


def test_an_entry_written_before_there_were_approvers_keeps_its_digest() -> None:
    """Fields that are not set are not part of the digest, so the chain of an older ledger stays valid."""
    old = {
        "schema_version": 1,
        "sequence": 1,
        "previous_digest": None,
        "at": "2026-11-24T09:00:00Z",
        "actor": "tester",
        "action": "promote",
        "model": "shapes",
        "alias": "champion",
        "from_version": None,
        "to_version": 1,
        "weights_digest": "1" * 64,
        "decision_digest": "d" * 64,
        "report_uri": "file:///report",
        "reason": "",
    }
    entry = LedgerEntry.model_validate(old)
    assert entry.digest == hashlib.sha256(canonical_json(old).encode()).hexdigest()
    agreed = entry.model_copy(update={"approver": "bob"})
    assert agreed.digest != entry.digest
    assert LedgerEntry.model_validate_json(agreed.model_dump_json()) == agreed


def test_moves_to_the_base_and_approvals_are_in_the_table(settings: Settings) -> None:
    at = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
    move(settings, None, 1, approver="bob", approved_at=at)
    move(settings, 1, None, action="rollback", decision_digest=None, weights_digest=None, reason="too dark")
    move(settings, None, 1, action="rollback", decision_digest=None, reason="was not")
    known = ledger.entries("shapes", open_store(settings.store_uri, settings))
    assert (known[0].approver, known[0].approved_at) == ("bob", at)
    lines = [line.split() for line in ledger.table(known).splitlines()]
    assert lines[0][:2] == ["#", "time"]
    moves = [[line[0], *line[3:]] for line in lines[1:]]
    assert moves == [
        ["1", "promote", "tester", "bob", "base", "v1", "decision", "d" * 12],
        ["2", "rollback", "tester", "-", "v1", "base", "too", "dark"],
        ["3", "rollback", "tester", "-", "base", "v1", "was", "not"],
    ]
    with pytest.raises(ValueError, match="champion is version 1, not the base model"):
        move(settings, None, 2)


def test_times_are_stored_in_utc(settings: Settings) -> None:
    entry = move(settings, None, 1)
    store = open_store(settings.store_uri, settings)
    stored = LedgerEntry.model_validate_json(store.read_bytes(store.uri("ledger", "shapes", "000001.json")))
    assert stored.digest == entry.digest
    assert str(stored.at.tzinfo) == "UTC"
