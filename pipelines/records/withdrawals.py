"""Withdrawals and purges of the store, which hold for every project: withdrawals/NNNNNN.json, purges/NNNNNN.json.

A withdrawal is never deleted; a later entry may revoke it.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from pipelines.contracts.withdrawals import (
    PurgePlan,
    PurgeRecord,
    Withdrawal,
    WithdrawalRecord,
    WithheldBatch,
)
from pipelines.records.series import Series, series_of_models
from pipelines.store.storage import Store


def withdrawal_series(store: Store) -> Series[WithdrawalRecord]:
    """Open the series of withdrawals."""
    return series_of_models(store, "withdrawals", model=WithdrawalRecord)


def active_withdrawals(store: Store) -> tuple[Withdrawal, ...]:
    """Return the withdrawals that nobody revoked, sorted."""
    last = {str(entry.withdrawal): entry for entry in withdrawal_series(store).entries()}
    return tuple(last[name].withdrawal for name in sorted(last) if not last[name].is_revoked)


def record_withdrawal(
    store: Store, withdrawal: Withdrawal, *, reason: str, by: str, is_revoked: bool = False
) -> WithdrawalRecord:
    """Append a withdrawal, or with `is_revoked` its end; ValueError when it holds already, or does not hold."""

    def propose(number: int, _last: WithdrawalRecord | None) -> WithdrawalRecord:
        holds = withdrawal in active_withdrawals(store)
        if holds != is_revoked:
            state = "is withdrawn already" if holds else "is not withdrawn, so there is nothing to revoke"
            raise ValueError(f"{str(withdrawal).capitalize()} {state}. See `plumbline withdraw --list`.")
        now = datetime.now(UTC)
        return WithdrawalRecord(
            number=number, at=now, by=by, reason=reason, withdrawal=withdrawal, is_revoked=is_revoked
        )

    return withdrawal_series(store).append(propose)


def purge_series(store: Store) -> Series[PurgeRecord]:
    """Open the series of purges."""
    return series_of_models(store, "purges", model=PurgeRecord)


def record_purge(store: Store, plan: PurgePlan, *, by: str, finishes: int | None = None) -> PurgeRecord:
    """Append the entry that is written before a deletion or, with `finishes`, the one after it."""

    def propose(number: int, _last: PurgeRecord | None) -> PurgeRecord:
        return PurgeRecord(number=number, at=datetime.now(UTC), by=by, plan=plan, finishes=finishes)

    return purge_series(store).append(propose)


def unfinished_purges(store: Store) -> list[PurgeRecord]:
    """Return the purges whose deletion was interrupted, oldest first."""
    entries = purge_series(store).entries()
    finished = {entry.finishes for entry in entries}
    return [entry for entry in entries if entry.finishes is None and entry.number not in finished]


def save_listing(store: Store, project: str, source: str, shards: Sequence[str]) -> None:
    """Replace the list of the shards that a source of a project has now."""
    store.write_bytes(_listing_uri(store, project, source), json.dumps(sorted(shards)).encode())


def read_listing(store: Store, project: str, source: str) -> list[str] | None:
    """Read the list of a source's shards; None before its first ingest."""
    uri = _listing_uri(store, project, source)
    return list(json.loads(store.read_bytes(uri))) if store.exists(uri) else None


def save_withheld(store: Store, key: str, batch: WithheldBatch) -> None:
    """Record which batch stands for the ingest with this key."""
    store.write_bytes(_withheld_uri(store, key), batch.model_dump_json().encode())


def read_withheld(store: Store, key: str) -> WithheldBatch | None:
    """Read which batch stands for the ingest with this key; None when none does."""
    uri = _withheld_uri(store, key)
    return WithheldBatch.model_validate_json(store.read_bytes(uri)) if store.exists(uri) else None


def withheld_keys(store: Store) -> dict[str, str]:
    """Map the folder of each batch without its withdrawn rows to the key of its ingest."""
    entries = store.list_uris(store.uri("raw/withheld"))
    found = {uri: WithheldBatch.model_validate_json(store.read_bytes(uri)) for uri in entries}
    return {batch.uri: uri.rpartition("/")[2].removesuffix(".json") for uri, batch in found.items()}


def _withheld_uri(store: Store, key: str) -> str:
    return store.uri("raw/withheld", f"{key}.json")


def _listing_uri(store: Store, project: str, source: str) -> str:
    return store.uri("raw/sources", project, f"{quote(source, safe='')}.json")
