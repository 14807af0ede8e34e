"""The champion put back: at a person's order, or where somebody moved its alias by hand.

Where to is read from the ledger, never from an alias: only the base model and versions that the gate once promoted come
back, with the weights that were promoted. Asked again, a rollback moves nothing: two people who are woken by the same
alarm, or a task that is run again, go back one champion and not two. Going on from there, and forward again, are said.
"""

from dataclasses import dataclass

from pipelines.contracts.release import CandidateVersion, LedgerEntry, Promotion
from pipelines.project.file import Project
from pipelines.release.champion import ledger
from pipelines.release.champion.state import Standing, previous_champion, read_standing
from pipelines.release.champion.versions import read_version
from pipelines.release.promotion import verification
from pipelines.release.promotion.promote import carried_out, check_actor, settle
from pipelines.tracking import registry
from pipelines.tracking.errors import TrackingRefused
from pipelines.workspace import Workspace


@dataclass(frozen=True)
class Order:
    """What a person asks for."""

    actor: str
    reason: str
    from_version: int | None = None
    """The champion that they mean to leave."""
    to_version: int | None = None
    to_base: bool = False
    forward: bool = False

    @property
    def is_named(self) -> bool:
        """Whether it says where to."""
        return self.to_base or self.to_version is not None

    def is_met_by(self, entry: LedgerEntry) -> bool:
        """Whether that move is the one that is asked for."""
        return (
            entry.action == ("forward" if self.forward else "rollback")
            and self.from_version in (None, entry.from_version)
            and (not self.is_named or entry.to_version == self.to_version)
        )


def rollback(
    workspace: Workspace,
    actor: str,
    reason: str,
    *,
    from_version: int | None = None,
    to_version: int | None = None,
    to_base: bool = False,
    forward: bool = False,
) -> Promotion:
    """Put the champion before the present one back: a version, or the base model where the champion was the first.

    `from_version` names the champion that is to be left, `to_version` or `to_base` where to go; `forward` allows to go
    to a version that a rollback had left, by itself to the one that was left last. What was done already moves nothing
    and gets the first answer. Works even when the champion's version was deleted, and skips deleted ones on its way.

    ValueError without a reason or anything to go back to; after a rollback, unless the order says from where, where to
    or forward; when the champion is another than `from_version`; when the version to go to was never promoted, or its
    weights are not those that were.
    """
    project = workspace.project
    check_actor(actor)
    order = Order(actor, reason, from_version=from_version, to_version=to_version, to_base=to_base, forward=forward)
    _check_order(order)
    standing = read_standing(project.name, workspace.settings)
    if standing.unfinished:
        entry = settle(workspace)
        if order.is_met_by(entry):
            return carried_out(entry, entry, f"finished a {_NOUNS[entry.action]} that was cut short")
        standing = read_standing(project.name, workspace.settings)
    if standing.problem and not (standing.deleted and standing.entries):
        raise ValueError(standing.problem)
    repeated = _answered_before(standing, order, project)
    if repeated is not None:
        return repeated
    number, skipped = _destination(standing, order, workspace)
    target = _checked(number, standing, workspace) if number is not None else None
    leaving = standing.entries[-1].to_version
    entry = ledger.append(
        project.name,
        workspace.store,
        actor=actor,
        action="forward" if forward else "rollback",
        from_version=leaving,
        to_version=number,
        weights_digest=target.weights_digest if target else _base_digest(workspace, leaving),
        decision_digest=None,
        report_uri=None,
        reason=reason,
    )
    return carried_out(entry, settle(workspace), f"{_VERBS[entry.action]}{skipped}")


def restore(workspace: Workspace, actor: str, reason: str) -> LedgerEntry:
    """Put aliases that were moved by hand, and the tags of the champion, back to what the ledger says; note it there.

    ValueError when the ledger itself, or the champion's weights, are not sound.
    """
    check_actor(actor)
    standing = read_standing(workspace.project.name, workspace.settings)
    if standing.problem and not standing.by_hand:
        raise ValueError(standing.problem)
    head = standing.entries[-1] if standing.entries else None
    version = head.to_version if head else None
    if version is not None:
        _checked(version, standing, workspace)
    entry = ledger.append(
        workspace.project.name,
        workspace.store,
        actor=actor,
        action="restore",
        from_version=version,
        to_version=version,
        weights_digest=head.weights_digest if head else None,
        decision_digest=None,
        report_uri=None,
        reason=reason,
    )
    settle(workspace)
    return entry


# --- was it done? ---------------------------------------------------------------------------------------------------

_NOUNS = {"rollback": "rollback", "forward": "roll forward"}
_VERBS = {"rollback": "rolled back", "forward": "rolled forward"}


def _check_order(order: Order) -> None:
    if not order.reason.strip():
        raise ValueError("A rollback needs a reason, for the ledger. Give one, e.g. 'too many black images'.")
    if order.to_base and (order.forward or order.to_version is not None):
        raise ValueError("The base model (--to-base) is neither a version nor forward. Ask for one of them.")


def _answered_before(standing: Standing, order: Order, project: Project) -> Promotion | None:
    """The first answer to what is asked for again; ValueError where it cannot be told what is meant."""
    moves = ledger.moves(standing.entries)
    if not moves:
        raise ValueError(f"Model {project.name!r} has no champion: the base model is in place. Nothing was moved.")
    last, here = moves[-1], moves[-1].to_version
    if order.from_version not in (None, here):
        if order.is_met_by(last):
            return _unmoved(last, f"had been {_told(last)}; nothing was moved")
        raise ValueError(
            f"The champion of {project.name!r} is {ledger.describe(here)}, not version {order.from_version}. Nothing"
            " was moved. Name the champion that you want to leave."
        )
    if order.is_named and order.to_version == here:
        return _unmoved(last, f"{ledger.describe(here)} is in place already, {_told(last)}; nothing was moved")
    if order.is_named or order.from_version is not None or standing.deleted or not order.is_met_by(last):
        return None
    done = f"{project.name!r} had been {_told(last)}. Nothing was moved. {_how_to_go_on(last)}".rstrip()
    if (last.actor, last.reason) != (order.actor, order.reason):
        raise ValueError(done)
    return _unmoved(last, done)


def _told(move: LedgerEntry) -> str:
    """A move in words."""
    verb = _VERBS.get(move.action, "promoted")
    when = f"{move.at:%Y-%m-%d %H:%M} UTC"
    why = f" ({move.reason})" if move.reason else ""
    moved = f"{ledger.describe(move.from_version)} -> {ledger.describe(move.to_version)}"
    return f"{verb} by {move.actor} on {when}{why}, ledger entry {move.sequence}: {moved}"


def _how_to_go_on(last: LedgerEntry) -> str:
    """The orders that do move from where the last rollback, or the last roll forward, ended."""
    say = []
    if last.to_version is not None:
        say.append(f"If version {last.to_version} is bad too, name it to leave it: --from-version {last.to_version}.")
    if last.action == "rollback" and last.from_version is not None:
        say.append(f"To put version {last.from_version} back, roll forward: --forward.")
    return " ".join(say)


def _unmoved(entry: LedgerEntry, message: str) -> Promotion:
    first = carried_out(entry, entry, "")
    return first.model_copy(update={"moved": False, "outcome": "unchanged", "message": message})


# --- where to -------------------------------------------------------------------------------------------------------


def _destination(standing: Standing, order: Order, workspace: Workspace) -> tuple[int | None, str]:
    """The version to go to, None for the base model, and what to say of versions that were skipped."""
    project = workspace.project
    if order.to_base:
        return None, ""
    if order.to_version is not None:
        return _named(order.to_version, standing, order, project), ""
    if order.forward:
        return _left_last(standing, project), ""
    behind = ledger.way_back(standing.entries)[1:]
    if not behind:
        raise ValueError(f"Model {project.name!r} has no champion: the base model is in place. Nothing was moved.")
    number = previous_champion(standing.entries, workspace.settings)
    skipped = [ledger.describe(version) for version in behind[: behind.index(number)]]
    if skipped and number is None:
        raise ValueError(
            f"No champion before {ledger.describe(standing.entries[-1].to_version)} of {project.name!r} is left in"
            f" MLflow: {', '.join(skipped)} was deleted. Nothing was moved. `--to-base` goes back to the base model."
        )
    return number, f" ({', '.join(skipped)} was deleted, and skipped)" if skipped else ""


def _named(version: int, standing: Standing, order: Order, project: Project) -> int:
    """A version that was asked for by number."""
    promoted = ledger.promoted_versions(standing.entries)
    if version not in promoted:
        raise ValueError(
            f"Version {version} of {project.name!r} was never promoted by the gate. Nothing was moved. Once promoted:"
            f" {', '.join(map(str, promoted))}; another one has to pass the gate."
        )
    behind = version in ledger.way_back(standing.entries)
    if behind and order.forward:
        raise ValueError(
            f"Version {version} of {project.name!r} lies behind the champion, not ahead of it. Nothing was moved. Leave"
            " out --forward to go back to it."
        )
    if not behind and not order.forward:
        left = [move for move in ledger.moves(standing.entries) if move.from_version == version][-1]
        raise ValueError(
            f"Version {version} of {project.name!r} was left: {_told(left)}. Nothing was moved. To put it back all the"
            " same, add --forward."
        )
    return version


def _left_last(standing: Standing, project: Project) -> int:
    """The version that the last move, a rollback, left."""
    last = ledger.moves(standing.entries)[-1]
    if last.action != "rollback" or last.from_version is None:
        raise ValueError(
            f"There is nothing to roll forward to: {project.name!r} was last {_told(last)}. Nothing was moved. Name a"
            " version that a rollback had left: --forward --to-version N."
        )
    return last.from_version


def _base_digest(workspace: Workspace, leaving: int | None) -> str | None:
    """Digest of the base model that the champion was trained from, None when its version is gone."""
    tags = registry.version_tags(workspace.settings, workspace.project.name, leaving) if leaving is not None else None
    return (tags or {}).get("base.digest")


# --- is it still what was promoted? ---------------------------------------------------------------------------------


def _checked(number: int, standing: Standing, workspace: Workspace) -> CandidateVersion:
    """The version, every byte of its weights as the gate promoted them; ValueError names the ways out."""
    project = workspace.project
    try:
        target = read_version(workspace, number)
        promoted = ledger.promotion_of(standing.entries, number)
        if target is None:
            raise ValueError(f"Version {number} of {project.name!r} was deleted from MLflow. Nothing was moved.")
        if promoted is None:
            raise ValueError(f"Version {number} of {project.name!r} was never promoted by the gate. Nothing was moved.")
        if target.weights_digest != promoted.weights_digest:
            raise ValueError(
                f"Version {number} of {project.name!r} says that its weights have digest {target.weights_digest}, the"
                f" gate promoted {promoted.weights_digest} (ledger entry {promoted.sequence}): they were replaced."
                " Nothing was moved."
            )
        verification.check_weights(target, workspace)
    except TrackingRefused:
        raise
    except ValueError as error:
        raise ValueError(f"{error} {_ways_out(number, standing, workspace)}") from error
    return target


def _ways_out(number: int, standing: Standing, workspace: Workspace) -> str:
    """Where else `plumbline rollback` can go."""
    here, behind = ledger.way_back(standing.entries)[0], ledger.way_back(standing.entries)[1:]
    others = (version for version in behind if version not in (None, number))
    there = (
        v
        for v in others
        if v is not None and registry.version_tags(workspace.settings, workspace.project.name, v) is not None
    )
    ways = [f"`plumbline rollback --to-version {version}`" for version in there][:1]
    ways += ["`plumbline rollback --to-base`"] * (here is not None)
    return f"Ways out: {', '.join(ways)}." if ways else "The base model stays in place."
