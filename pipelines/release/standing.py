"""Where the champion stands: the registry's alias, the ledger, and whether one tells the other's story.

A move writes the ledger first, then the aliases, then the tag `ledger.entry` on the version moved to (on the one that
was left, where the base model takes its place: that has no version). So an alias still at the last entry's start, while
that version lacks the entry's tag, is a move that was cut short, and is finished by whoever moves next. Anything else
that disagrees was done by hand or to deceive, and stops every move but a rollback from a deleted version.
"""

from dataclasses import dataclass

from pipelines import registry
from pipelines.contracts import LedgerEntry
from pipelines.release import ledger
from pipelines.settings import Settings
from pipelines.tracking_errors import TrackingRefused

LEDGER_TAG = "ledger.entry"


@dataclass(frozen=True)
class Standing:
    """What alias and ledger say of the champion."""

    entries: tuple[LedgerEntry, ...]
    champion: int | None
    """The version that the alias names; None when it is not set, or names a deleted version."""
    unfinished: bool = False
    """The last entry's move was cut short."""
    deleted: bool = False
    """The champion of the ledger is no longer in the registry."""
    by_hand: bool = False
    """Somebody moved the alias; everything else is sound, so it can be put back."""
    problem: str = ""
    """Why alias and ledger cannot be reconciled, and how to mend it; empty when they can."""


def read_standing(model: str, settings: Settings) -> Standing:
    """Compare alias and ledger; ValueError when the ledger itself was tampered with, or nobody may look into MLflow."""
    known = ledger.entries(model, settings)
    head = known[-1] if known else None
    try:
        champion = registry.get_alias(settings, model, "champion")
    except TrackingRefused:
        raise
    except ValueError as error:
        return Standing(known, None, deleted=True, problem=str(error))
    if head is None:
        stray = champion is not None
        return Standing(known, champion, by_hand=stray, problem=_by_hand(model, champion, None) if stray else "")
    bearer = witness(head)
    tags = registry.version_tags(settings, model, bearer) if bearer is not None else None
    if tags is None and head.to_version is not None:
        return Standing(known, champion, deleted=True, problem=_deleted(model, head))
    # Where the base model is in place there may be no version left that could bear the tag, and none needs to.
    tagged = tags is None or tags.get(LEDGER_TAG) == entry_tag(head)
    if tags is not None and not tagged and _names_later_entry(tags, head):
        return Standing(known, champion, problem=_cut_off(model, tags[LEDGER_TAG], head))
    if champion == head.to_version or (champion == head.from_version and not tagged):
        return Standing(known, champion, unfinished=not tagged)
    return Standing(known, champion, by_hand=True, problem=_by_hand(model, champion, head.to_version))


def sound_champion(model: str, settings: Settings) -> int | None:
    """The champion's version, None for the base model; ValueError when alias and ledger cannot be reconciled."""
    standing = read_standing(model, settings)
    if standing.problem:
        raise ValueError(standing.problem)
    return standing.champion


def witness(entry: LedgerEntry) -> int | None:
    """The version whose tag says that the entry's move was carried out; None when the base stayed in place."""
    return entry.from_version if entry.to_version is None else entry.to_version


def entry_tag(entry: LedgerEntry) -> str:
    """What the tag `ledger.entry` of a champion says."""
    return f"{entry.sequence} {entry.digest}"


def _names_later_entry(tags: dict[str, str], head: LedgerEntry) -> bool:
    sequence = tags.get(LEDGER_TAG, "0").partition(" ")[0]
    return not sequence.isdecimal() or int(sequence) >= head.sequence


def _deleted(model: str, head: LedgerEntry) -> str:
    return (
        f"Version {head.to_version} of model {model!r}, the champion by ledger entry {head.sequence}, was deleted from"
        " MLflow. Nothing was moved. `plumbline rollback` restores the champion before it; if that is gone too,"
        " `plumbline rollback --to-base` restores the base model."
    )


def _by_hand(model: str, champion: int | None, expected: int | None) -> str:
    mend = (
        f"point alias `champion` back at version {expected} in MLflow"
        if expected is not None
        else "delete alias `champion` in MLflow and let the gate promote"
    )
    mend += ", or let `plumbline reconcile --restore` do it"
    return (
        f"Alias `champion` of model {model!r} means {ledger.describe(champion)}, the ledger ends with"
        f" {ledger.describe(expected)}: someone moved it by hand. To mend it, {mend}. Only `plumbline promote` and"
        " `plumbline rollback` may move it."
    )


def _cut_off(model: str, tag: str, head: LedgerEntry) -> str:
    return (
        f"The champion of model {model!r} was put there by ledger entry {tag[:24]}..., but the ledger ends with entry"
        f" {head.sequence}, {head.digest[:12]}: entries were changed or removed. {ledger.MEND}"
    )
