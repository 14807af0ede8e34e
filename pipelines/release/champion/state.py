"""The state of the champion: the registry's alias, the ledger, and whether they agree.

A move writes the ledger first, then the aliases, then the tag `ledger.entry` on the version moved to. A move to the
base model, which has no version, writes the tag on the version that it leaves. If the alias still names the start of
the last entry and the version lacks the entry's tag, the move was interrupted, and the next move completes it. Any
other disagreement is a manual or malicious change: it stops every move except a rollback from a deleted version.

The tags also check the ledger: if a tag names an entry that the ledger does not have, the ledger is incomplete or the
wrong one, and nothing is restored from it.
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
class ChampionState:
    """The champion according to alias and ledger."""

    entries: tuple[LedgerEntry, ...]
    champion: int | None
    """The version that the alias names; None when it is not set, or names a deleted version."""
    unfinished: bool = False
    """True if the last entry's move was interrupted."""
    deleted: bool = False
    """True if the champion of the ledger is no longer in the registry."""
    by_hand: bool = False
    """True if the alias was moved by hand and everything else is sound, so the alias can be restored."""
    cut_off: bool = False
    """True if the registry names an entry that the ledger does not have: nothing can be restored from such a ledger."""
    problem: str = ""
    """The reason why alias and ledger cannot be reconciled, and the fix; empty when they can."""

    @property
    def rolled_back(self) -> bool:
        """True if the alias names the version that the last move, a rollback, left.

        A promotion that the rollback overtook sets the alias like this when it is killed before it reads the ledger
        again; so does a person, by hand.
        """
        last = self.entries[-1] if self.entries else None
        return self.by_hand and last is not None and last.action == "rollback" and self.champion == last.from_version


def read_state(model: str, settings: Settings) -> ChampionState:
    """Compare alias and ledger; ValueError when the ledger was changed, or MLflow denies access or does not answer."""
    while True:
        known = ledger.entries(model, open_store(settings.store_uri, settings))
        state = _compare(model, settings, known)
        # A move during the comparison also looks like a disagreement: compare again if the ledger changed.
        if not state.problem or ledger.entries(model, open_store(settings.store_uri, settings)) == known:
            return state


def _compare(model: str, settings: Settings, known: tuple[LedgerEntry, ...]) -> ChampionState:
    head = known[-1] if known else None
    try:
        champion = registry.get_alias(settings, model, "champion")
    except TrackingRefused:
        raise
    except ValueError as error:
        return ChampionState(known, None, deleted=True, problem=str(error))
    tagged_version = tagged_version_of(head) if head else None
    tags = registry.version_tags(settings, model, tagged_version) if tagged_version is not None else None
    # With the base model in place, the version that would have the tag may be deleted; the tag is then not needed.
    tagged = head is None or tags is None or tags.get(LEDGER_TAG) == entry_tag(head)
    agrees = tagged and champion == (head.to_version if head else None)
    # Asked even if all agrees: whoever deletes the last entry may set the alias back as well.
    lost = _lost_entry(model, settings, known)
    if lost is not None:
        return ChampionState(
            known, champion, cut_off=True, problem=_cut_off(model, *lost, known=known, settings=settings)
        )
    if head is not None and head.to_version is not None and tags is None:
        return ChampionState(known, champion, deleted=True, problem=_deleted(model, head))
    if agrees:
        return ChampionState(known, champion)
    if head is not None and not tagged and champion in (head.to_version, head.from_version):
        return ChampionState(known, champion, unfinished=True)
    expected = head.to_version if head else None
    return ChampionState(known, champion, by_hand=True, problem=_by_hand(model, champion, expected))


def previous_champion(known: Sequence[LedgerEntry], settings: Settings) -> int | None:
    """Return the version that a rollback would restore: the nearest earlier champion that was not deleted, or None for
    the base model."""
    model = known[-1].model
    behind = (version for version in ledger.way_back(known)[1:] if version is not None)
    return next((version for version in behind if registry.version_tags(settings, model, version) is not None), None)


def sound_champion(model: str, settings: Settings) -> int | None:
    """Return the champion's version, None for the base model; ValueError when alias and ledger cannot be reconciled."""
    state = read_state(model, settings)
    if state.problem:
        raise ValueError(state.problem)
    return state.champion


def tagged_version_of(entry: LedgerEntry) -> int | None:
    """Return the version whose tag confirms that the entry's move was carried out; None when the base stayed in
    place."""
    return entry.from_version if entry.to_version is None else entry.to_version


def entry_tag(entry: LedgerEntry) -> str:
    """Return the value of the tag `ledger.entry` for an entry."""
    return f"{entry.sequence} {entry.digest}"


def _lost_entry(model: str, settings: Settings, known: Sequence[LedgerEntry]) -> tuple[int, str] | None:
    """Return a version whose tag names an entry that the ledger does not have, and that tag; else None."""
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
    fix = (
        f"point alias `champion` back at version {expected} in MLflow"
        if expected is not None
        else "delete alias `champion` in MLflow and let the gate promote"
    )
    return (
        f"Alias `champion` of model {model!r} names {ledger.describe(champion)}, but the ledger ends with"
        f" {ledger.describe(expected)}: someone moved it by hand. To fix it, run `plumbline reconcile --restore`, or"
        f" {fix}. Only `plumbline promote` and `plumbline rollback` may move it."
    )


def _cut_off(model: str, version: int, tag: str, *, known: Sequence[LedgerEntry], settings: Settings) -> str:
    ends = f"ends with entry {known[-1].sequence}, {known[-1].digest[:12]}" if known else "is empty"
    return (
        f"Version {version} of model {model!r} names ledger entry {tag[:24]}..., but the ledger in"
        f" {settings.store_uri} {ends}: entries were changed or removed, or that is the wrong store. Check"
        f" PLUMBLINE_STORE_URI. {ledger.HOW_TO_RESTORE}"
    )
