"""Append-only record of every move of the champion, in the store as ledger/MODEL/000001.json and on.

Each entry names the digest of the one before and starts from the version where that one ended. An entry is put only
where none is, so of two promoters who start from the same champion one fails. Chain and numbering show an entry that
was changed, dropped or slipped in; the champion's version tag `ledger.entry` shows it for the newest one.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from pipelines.contracts.release import LedgerEntry
from pipelines.records.series import Series, dump_model, entry_name
from pipelines.store.storage import Store

MEND = "Compare with the store's object versions or a backup, and restore the folder; until then no alias is moved."


def entries(model: str, store: Store) -> tuple[LedgerEntry, ...]:
    """The whole ledger of a model, oldest first; ValueError when it has a gap, or an entry was changed."""
    series = _series(store, model)
    names = [uri.rsplit("/", 1)[-1] for uri in store.list_uris(series.folder_uri)]
    found: list[LedgerEntry] = []
    for sequence, name in enumerate(sorted(names), start=1):
        if name != entry_name(sequence):
            raise ValueError(f"Ledger of {model!r}: expected {entry_name(sequence)}, found {name}. {MEND}")
        entry = series.read(sequence)
        _check_follows(entry, found[-1] if found else None, model)
        found.append(entry)
    return tuple(found)


def append(
    model: str,
    store: Store,
    *,
    actor: str,
    action: Literal["promote", "rollback", "forward", "restore"],
    from_version: int | None,
    to_version: int | None,
    weights_digest: str | None,
    decision_digest: str | None,
    report_uri: str | None,
    reason: str = "",
    approver: str = "",
    approved_at: datetime | None = None,
) -> LedgerEntry:
    """Record a move from the champion that the ledger names now; ValueError when it names another one.

    When somebody else appends in between, the ledger is read and checked again.
    """

    def propose(number: int, head: LedgerEntry | None) -> LedgerEntry:
        entries(model, store)
        standing = head.to_version if head else None
        if standing != from_version:
            raise ValueError(
                f"The ledger of {model!r} says that the champion is {describe(standing)}, not {describe(from_version)}:"
                " it was moved in between, and nothing was moved now. `plumbline ledger` shows by whom."
            )
        return LedgerEntry(
            sequence=number,
            previous_digest=head.digest if head else None,
            at=datetime.now(UTC),
            actor=actor,
            action=action,
            model=model,
            from_version=from_version,
            to_version=to_version,
            weights_digest=weights_digest,
            decision_digest=decision_digest,
            report_uri=report_uri,
            reason=reason,
            approver=approver,
            approved_at=approved_at,
        )

    return _series(store, model).append(propose)


def moves(known: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
    """The entries that moved the champion: all but those that put it back where it was."""
    return tuple(entry for entry in known if entry.action != "restore")


def promotion_of(known: Sequence[LedgerEntry], version: int) -> LedgerEntry | None:
    """The last time that the gate made a version champion; None when it never did."""
    found = [entry for entry in known if entry.action == "promote" and entry.to_version == version]
    return found[-1] if found else None


def promoted_versions(known: Sequence[LedgerEntry]) -> tuple[int, ...]:
    """Every version that the gate once made champion, the one promoted last first."""
    found = (entry.to_version for entry in reversed(known) if entry.action == "promote")
    return tuple(dict.fromkeys(version for version in found if version is not None))


def way_back(known: Sequence[LedgerEntry]) -> tuple[int | None, ...]:
    """The champions one behind the other, as rollbacks would meet them: the present one first, the base (None) last.

    A rollback takes what it left off the way, so that neither it nor a later one leads there again; a new promotion, or
    rolling forward, puts it back on.
    """
    path: list[int | None] = [None]
    for entry in moves(known):
        if entry.to_version in path and entry.action != "promote":
            del path[path.index(entry.to_version) + 1 :]
        else:
            path = [version for version in path if version != entry.to_version] + [entry.to_version]
    return tuple(reversed(path))


def agrees_with_aliases(known: Sequence[LedgerEntry], champion_version: int | None) -> bool:
    """Whether the alias `champion` is where the last entry put it."""
    return (known[-1].to_version if known else None) == champion_version


def table(known: Sequence[LedgerEntry]) -> str:
    """The ledger as text that people read, a line per move, oldest first."""
    head = ("#", "when (UTC)", "move", "by", "approved by", "from", "to", "why")
    rows = [
        (
            str(entry.sequence),
            entry.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            entry.action,
            entry.actor,
            entry.approver or "-",
            _short(entry.from_version),
            _short(entry.to_version),
            entry.reason or (f"decision {entry.decision_digest[:12]}" if entry.decision_digest else ""),
        )
        for entry in known
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def _short(version: int | None) -> str:
    return "base" if version is None else f"v{version}"


def describe(version: int | None) -> str:
    """A champion in words."""
    return "the base model" if version is None else f"version {version}"


def _series(store: Store, model: str) -> Series[LedgerEntry]:
    return Series(store, "ledger", model, parse=lambda data, number: _parse(data, model, number), dump=dump_model)


def _parse(data: bytes, model: str, sequence: int) -> LedgerEntry:
    try:
        return LedgerEntry.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise ValueError(f"Ledger of {model!r}, entry {sequence} is not readable ({what}). {MEND}") from error


def _check_follows(entry: LedgerEntry, previous: LedgerEntry | None, model: str) -> None:
    sequence, digest, version = (
        (previous.sequence + 1, previous.digest, previous.to_version) if previous else (1, None, None)
    )
    for name, found, expected in (
        ("model", entry.model, model),
        ("sequence", entry.sequence, sequence),
        ("previous_digest", entry.previous_digest, digest),
        ("from_version", entry.from_version, version),
    ):
        if found != expected:
            raise ValueError(
                f"Ledger of {model!r}, entry {sequence}: {name} is {found!r}, the entries before it require"
                f" {expected!r}. The ledger was changed. {MEND}"
            )
