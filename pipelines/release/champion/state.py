"""Where the champion stands: the registry's alias, the ledger, and whether one tells the other's story.

A move writes the ledger first, then the aliases, then the tag `ledger.entry` on the version moved to (on the one that
was left, where the base model takes its place: that has no version). So an alias still at the last entry's start, while
that version lacks the entry's tag, is a move that was cut short, and is finished by whoever moves next. Anything else
that disagrees was done by hand or to deceive, and stops every move but a rollback from a deleted version.

The tags witness against the ledger too: where one names an entry that the ledger does not have, it is the ledger that
is not whole (or not the right one), and nothing is put back by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.contracts.release import LedgerEntry
from pipelines.release.champion import ledger
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import registry
from pipelines.tracking.errors import TrackingRefused

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
    cut_off: bool = False
    """The registry knows of an entry that the ledger does not have: nothing can be put back by such a ledger."""
    problem: str = ""
    """Why alias and ledger cannot be reconciled, and how to mend it; empty when they can."""


def read_standing(model: str, settings: Settings) -> Standing:
    """Compare alias and ledger; ValueError when the ledger itself was tampered with, or nobody may look into MLflow."""
    while True:
        known = ledger.entries(model, open_store(settings.store_uri, settings))
        standing = _compare(model, settings, known)
        # What disagrees may be a move that was made while we looked.
        if not standing.problem or ledger.entries(model, open_store(settings.store_uri, settings)) == known:
            return standing


def _compare(model: str, settings: Settings, known: tuple[LedgerEntry, ...]) -> Standing:
    head = known[-1] if known else None
    try:
        champion = registry.get_alias(settings, model, "champion")
    except TrackingRefused:
        raise
    except ValueError as error:
        return Standing(known, None, deleted=True, problem=str(error))
    bearer = witness(head) if head else None
    tags = registry.version_tags(settings, model, bearer) if bearer is not None else None
    # Where the base model is in place there may be no version left that could bear the tag, and none needs to.
    tagged = head is None or tags is None or tags.get(LEDGER_TAG) == entry_tag(head)
    agrees = tagged and champion == (head.to_version if head else None)
    if agrees and tags is not None:
        return Standing(known, champion)
    lost = _lost_entry(model, settings, known)
    if lost is not None:
        return Standing(known, champion, cut_off=True, problem=_cut_off(model, *lost, known=known, settings=settings))
    if head is not None and head.to_version is not None and tags is None:
        return Standing(known, champion, deleted=True, problem=_deleted(model, head))
    if agrees:
        return Standing(known, champion)
    if head is not None and not tagged and champion in (head.to_version, head.from_version):
        return Standing(known, champion, unfinished=True)
    expected = head.to_version if head else None
    return Standing(known, champion, by_hand=True, problem=_by_hand(model, champion, expected))


def previous_champion(known: Sequence[LedgerEntry], settings: Settings) -> int | None:
    """The version that a rollback would go to: of those behind the champion, the nearest that was not deleted; None
    when that is the base model."""
    model = known[-1].model
    behind = (version for version in ledger.way_back(known)[1:] if version is not None)
    return next((version for version in behind if registry.version_tags(settings, model, version) is not None), None)


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


def _lost_entry(model: str, settings: Settings, known: Sequence[LedgerEntry]) -> tuple[int, str] | None:
    """A version whose tag names an entry that the ledger does not have, and that tag."""
    had = {entry_tag(entry) for entry in known}
    tagged = registry.tagged_versions(settings, model, LEDGER_TAG)
    return next(((version, tag) for version, tag in sorted(tagged.items(), reverse=True) if tag not in had), None)


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


def _cut_off(model: str, version: int, tag: str, *, known: Sequence[LedgerEntry], settings: Settings) -> str:
    ends = f"ends with entry {known[-1].sequence}, {known[-1].digest[:12]}" if known else "is empty"
    return (
        f"Version {version} of model {model!r} names ledger entry {tag[:24]}..., but the ledger in"
        f" {settings.store_uri} {ends}: entries were changed or removed, or that is the wrong store. Is"
        f" PLUMBLINE_STORE_URI right? {ledger.HOW_TO_RESTORE}"
    )
