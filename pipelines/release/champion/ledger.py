"""Append-only record of every move of the champion, in the store as ledger/MODEL/000001.json and following.

Each entry contains the digest of the entry before it and starts from the version where that one ended. An entry is
written only if its number is free, so of two promotions from the same champion one fails. The chain of digests and the
numbers reveal an entry that was changed, removed or inserted; for the newest entry the champion's version tag
`ledger.entry` does.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from pipelines.contracts.release import LedgerAction, LedgerEntry
from pipelines.records.series import Series, dump_model, entry_name
from pipelines.store.storage import Store

HOW_TO_RESTORE = (
    "Compare with the store's object versions or a backup, and restore the folder; until then no alias is moved."
)


VERBS = {"rollback": "rolled back", "forward": "rolled forward", "by_hand": "promoted by hand, ungated,"}

UNGATED = "ungated"
"""Value of the tag `gate.verdict` of a version that a person promoted while the gate was off."""

_PROMOTIONS = ("promote", "by_hand")
"""Actions that make a version champion that was none before, or was left by a rollback."""
_MOVES = {"by_hand": "by hand, ungated"}
"""Actions that the table shows in other words."""


def entries(model: str, store: Store) -> tuple[LedgerEntry, ...]:
    """Read the ledger of a model, oldest entry first; ValueError when it has a gap or an entry was changed.

    Files with other names than those of entries are no part of it: a stray one must not stop a rollback.
    """
    series = _series(store, model)
    found: list[LedgerEntry] = []
    for sequence, number in enumerate(series.numbers(), start=1):
        if number != sequence:
            missing, name = entry_name(sequence), entry_name(number)
            raise ValueError(f"Ledger of {model!r}: expected {missing}, found {name}. {HOW_TO_RESTORE}")
        entry = series.read(sequence)
        _check_follows(entry, found[-1] if found else None, model)
        found.append(entry)
    return tuple(found)


def append(
    model: str,
    store: Store,
    *,
    actor: str,
    action: LedgerAction,
    from_version: int | None,
    to_version: int | None,
    weights_digest: str | None,
    decision_digest: str | None,
    report_uri: str | None,
    reason: str = "",
    approver: str = "",
    approved_at: datetime | None = None,
) -> LedgerEntry:
    """Record a move of the champion from `from_version`; ValueError when the ledger names another champion.

    When another process appends an entry first, the ledger is read and checked again.
    """

    def propose(number: int, head: LedgerEntry | None) -> LedgerEntry:
        entries(model, store)
        current = head.to_version if head else None
        if current != from_version:
            raise ValueError(
                f"In the ledger of {model!r} the champion is {describe(current)}, not {describe(from_version)}:"
                " another process moved it. Nothing was moved. Run `plumbline ledger` to see who moved it."
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
    """Return the entries that moved the champion: all except those with the action `restore`."""
    return tuple(entry for entry in known if entry.action != "restore")


def promotion_of(known: Sequence[LedgerEntry], version: int, *, gated: bool = False) -> LedgerEntry | None:
    """Return the last entry by which the gate, or a person, promoted a version; None when there is none.

    `gated`: only the gate's promotions count.
    """
    counted = ("promote",) if gated else _PROMOTIONS
    found = [entry for entry in known if entry.action in counted and entry.to_version == version]
    return found[-1] if found else None


def ungated(known: Sequence[LedgerEntry], version: int | None) -> str:
    """Describe the promotion by hand that made a version champion; empty if the gate promoted it, or it is the base."""
    move = promotion_of(known, version) if version is not None else None
    return describe_move(move) if move is not None and move.action == "by_hand" else ""


def promoted_versions(known: Sequence[LedgerEntry]) -> tuple[int, ...]:
    """Return every version that the gate or a person promoted, the last promoted first."""
    found = (entry.to_version for entry in reversed(known) if entry.action in _PROMOTIONS)
    return tuple(dict.fromkeys(version for version in found if version is not None))


def way_back(known: Sequence[LedgerEntry]) -> tuple[int | None, ...]:
    """Return the champions in the order of rollbacks: the current one first, the base model (None) last.

    A rollback removes the version that it left, so that no later rollback returns to it. A new promotion of this
    version, or rolling forward, adds it again.
    """
    path: list[int | None] = [None]
    for entry in moves(known):
        if entry.to_version in path and entry.action not in _PROMOTIONS:
            del path[path.index(entry.to_version) + 1 :]
        else:
            path = [version for version in path if version != entry.to_version] + [entry.to_version]
    return tuple(reversed(path))


def agrees_with_aliases(known: Sequence[LedgerEntry], champion_version: int | None) -> bool:
    """Return True if the alias `champion` names the version of the last entry."""
    return (known[-1].to_version if known else None) == champion_version


def table(known: Sequence[LedgerEntry]) -> str:
    """Format the ledger as a text table, one line per move, oldest first."""
    head = ("#", "time (UTC)", "move", "by", "approved by", "from", "to", "reason")
    rows = [
        (
            str(entry.sequence),
            entry.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            _MOVES.get(entry.action, entry.action),
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
    """Describe a champion in words."""
    return "the base model" if version is None else f"version {version}"


def describe_move(move: LedgerEntry) -> str:
    """Describe a move in words."""
    verb = VERBS.get(move.action, "promoted")
    when = f"{move.at:%Y-%m-%d %H:%M} UTC"
    why = f" ({move.reason})" if move.reason else ""
    moved = f"{describe(move.from_version)} -> {describe(move.to_version)}"
    return f"{verb} by {move.actor} on {when}{why}, ledger entry {move.sequence}: {moved}"


def rollback_of(known: Sequence[LedgerEntry], weights: Collection[str]) -> LedgerEntry | None:
    """Return the last rollback that left a champion with one of these weights (digests), None when there is none.

    A later move to the same weights, which a person must have requested, ends the effect of the rollback.
    """
    left: dict[str, LedgerEntry] = {}
    here: str | None = None
    for entry in moves(known):
        if entry.action == "rollback" and here is not None:
            left[here] = entry
        here = entry.weights_digest
        if here is not None:
            left.pop(here, None)
    found = [entry for digest, entry in left.items() if digest in weights]
    return max(found, key=lambda entry: entry.sequence, default=None)


def _series(store: Store, model: str) -> Series[LedgerEntry]:
    return Series(store, "ledger", model, parse=lambda data, number: _parse(data, model, number), dump=dump_model)


def _parse(data: bytes, model: str, sequence: int) -> LedgerEntry:
    try:
        return LedgerEntry.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise ValueError(f"Ledger of {model!r}, entry {sequence} is not readable ({what}). {HOW_TO_RESTORE}") from error


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
                f" {expected!r}. The ledger was changed. {HOW_TO_RESTORE}"
            )
