"""Restore an earlier champion, on a person's order or after the alias was moved by hand.

The destination is read from the ledger, never from an alias: only the base model and versions that were promoted, by
the gate or by hand, can come back, with the weights that were promoted. A repeated rollback moves nothing: two people
who react to the same alarm, or a task that is retried, go back one champion and not two. To go back further, or forward
again, name it.
"""

from dataclasses import dataclass

from pipelines.contracts.release import CandidateVersion, LedgerEntry, Promotion
from pipelines.project.file import Project
from pipelines.release.champion import ledger
from pipelines.release.champion.state import ChampionState, previous_champion, read_state
from pipelines.release.champion.versions import read_version
from pipelines.release.promotion import verification
from pipelines.release.promotion.promote import carried_out, check_actor, settle
from pipelines.tracking import registry
from pipelines.tracking.errors import TrackingRefused
from pipelines.workspace import Workspace


@dataclass(frozen=True)
class _Order:
    """A rollback as a person requested it."""

    actor: str
    reason: str
    from_version: int | None = None
    """The champion to leave."""
    to_version: int | None = None
    to_base: bool = False
    forward: bool = False

    @property
    def is_named(self) -> bool:
        """True if the order names its destination."""
        return self.to_base or self.to_version is not None

    def is_met_by(self, entry: LedgerEntry) -> bool:
        """Return True if that move is the requested one."""
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
    """Restore the champion before the current one: a version, or the base model if the champion was the first.

    `from_version` names the champion to leave; `to_version` or `to_base` name the destination; `forward` allows a
    version that a rollback had left, by default the one that was left last. An order that was carried out before moves
    nothing and returns the first result. Works even if the champion's version was deleted, and skips deleted versions.

    ValueError without a reason or an earlier champion; after a rollback, unless the order names its start, its
    destination or `forward`; when the champion is not `from_version`; when the destination was never promoted, or its
    weights are not the promoted ones.
    """
    project = workspace.project
    check_actor(actor)
    order = _Order(actor, reason, from_version=from_version, to_version=to_version, to_base=to_base, forward=forward)
    _check_order(order)
    state = read_state(project.name, workspace.settings)
    if state.unfinished:
        entry = settle(workspace)
        if order.is_met_by(entry):
            return carried_out(entry, entry, f"completed an interrupted {_NOUNS[entry.action]}")
        state = read_state(project.name, workspace.settings)
    if state.problem and not (state.deleted and state.entries):
        raise ValueError(state.problem)
    repeated = _answered_before(state, order, project)
    if repeated is not None:
        return repeated
    number, skipped = _destination(state, order, workspace)
    target = _checked(number, state, workspace) if number is not None else None
    leaving = state.entries[-1].to_version
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
    return carried_out(entry, settle(workspace), f"{ledger.VERBS[entry.action]}{skipped}")


def restore(workspace: Workspace, actor: str, reason: str) -> LedgerEntry:
    """Restore aliases and champion tags that were changed by hand to match the ledger; record it as a new entry.

    ValueError when the ledger or the champion's weights were changed.
    """
    check_actor(actor)
    state = read_state(workspace.project.name, workspace.settings)
    if state.problem and not state.by_hand:
        raise ValueError(state.problem)
    head = state.entries[-1] if state.entries else None
    version = head.to_version if head else None
    if version is not None:
        _checked(version, state, workspace)
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


# --- repeated orders ------------------------------------------------------------------------------------------------

_NOUNS = {"rollback": "rollback", "forward": "roll forward"}


def _check_order(order: _Order) -> None:
    if not order.reason.strip():
        raise ValueError("The reason is empty, but the ledger records it. Give a reason, e.g. 'too many black images'.")
    if order.to_base and (order.forward or order.to_version is not None):
        raise ValueError("--to-base cannot be combined with --to-version or --forward. Give one of them.")


def _answered_before(state: ChampionState, order: _Order, project: Project) -> Promotion | None:
    """Return the first result of a repeated order, else None; ValueError when the order is ambiguous."""
    moves = ledger.moves(state.entries)
    if not moves:
        raise ValueError(f"Model {project.name!r} has no champion: the base model is in place. Nothing was moved.")
    last, here = moves[-1], moves[-1].to_version
    if order.from_version not in (None, here):
        if order.is_met_by(last):
            return _unmoved(last, f"already {ledger.describe_move(last)}; nothing was moved")
        raise ValueError(
            f"The champion of {project.name!r} is {ledger.describe(here)}, not version {order.from_version}. Nothing"
            " was moved. Pass the current champion as --from-version, or leave it out."
        )
    if order.is_named and order.to_version == here:
        message = f"{ledger.describe(here)} is already in place, {ledger.describe_move(last)}; nothing was moved"
        return _unmoved(last, message)
    if order.is_named or order.from_version is not None or state.deleted or not order.is_met_by(last):
        return None
    done = f"{project.name!r} was already {ledger.describe_move(last)}. Nothing was moved. {_next_steps(last)}".rstrip()
    if (last.actor, last.reason) != (order.actor, order.reason):
        raise ValueError(done)
    return _unmoved(last, done)


def _next_steps(last: LedgerEntry) -> str:
    """Return the options that move the champion on from the last rollback or roll forward."""
    steps = []
    if last.to_version is not None:
        steps.append(f"If version {last.to_version} is bad too, leave it with --from-version {last.to_version}.")
    if last.action == "rollback" and last.from_version is not None:
        steps.append(f"To restore version {last.from_version}, roll forward with --forward.")
    return " ".join(steps)


def _unmoved(entry: LedgerEntry, message: str) -> Promotion:
    first = carried_out(entry, entry, "")
    return first.model_copy(update={"moved": False, "outcome": "unchanged", "message": message})


# --- destination ----------------------------------------------------------------------------------------------------


def _destination(state: ChampionState, order: _Order, workspace: Workspace) -> tuple[int | None, str]:
    """Return the version to restore, None for the base model, and a text about skipped versions."""
    project = workspace.project
    if order.to_base:
        return None, ""
    if order.to_version is not None:
        return _named(order.to_version, state, order, project), ""
    if order.forward:
        return _left_last(state, project), ""
    behind = ledger.way_back(state.entries)[1:]
    if not behind:
        raise ValueError(f"Model {project.name!r} has no champion: the base model is in place. Nothing was moved.")
    number = previous_champion(state.entries, workspace.settings)
    skipped = [ledger.describe(version) for version in behind[: behind.index(number)]]
    if skipped and number is None:
        raise ValueError(
            f"No champion before {ledger.describe(state.entries[-1].to_version)} of {project.name!r} is left in"
            f" MLflow: {', '.join(skipped)} was deleted. Nothing was moved. Use --to-base to go back to the base model."
        )
    return number, f" (skipped because deleted: {', '.join(skipped)})" if skipped else ""


def _named(version: int, state: ChampionState, order: _Order, project: Project) -> int:
    """Check a version that was requested by number and return it."""
    promoted = ledger.promoted_versions(state.entries)
    if version not in promoted:
        raise ValueError(
            f"Version {version} of {project.name!r} was never promoted. Nothing was moved. Promoted versions:"
            f" {', '.join(map(str, promoted))}. Any other version has to pass the gate."
        )
    behind = version in ledger.way_back(state.entries)
    if behind and order.forward:
        raise ValueError(
            f"Version {version} of {project.name!r} is an earlier champion, so --forward does not reach it. Nothing was"
            " moved. Leave out --forward to go back to it."
        )
    if not behind and not order.forward:
        left = [move for move in ledger.moves(state.entries) if move.from_version == version][-1]
        raise ValueError(
            f"Version {version} of {project.name!r} was left: {ledger.describe_move(left)}. Nothing was moved. To"
            " restore it anyway, add --forward."
        )
    return version


def _left_last(state: ChampionState, project: Project) -> int:
    """Return the version that the last move, a rollback, left."""
    last = ledger.moves(state.entries)[-1]
    if last.action != "rollback" or last.from_version is None:
        raise ValueError(
            f"There is nothing to roll forward to: {project.name!r} was last {ledger.describe_move(last)}. Nothing was"
            " moved. Name a version that a rollback had left with --forward --to-version N."
        )
    return last.from_version


def _base_digest(workspace: Workspace, leaving: int | None) -> str | None:
    """Return the digest of the base model that the champion was trained from; None when its version is gone."""
    tags = registry.version_tags(workspace.settings, workspace.project.name, leaving) if leaving is not None else None
    return (tags or {}).get("base.digest")


# --- verification of the destination --------------------------------------------------------------------------------


def _checked(number: int, state: ChampionState, workspace: Workspace) -> CandidateVersion:
    """Return the version after verifying that its weights are the promoted ones; ValueError names the alternatives."""
    project = workspace.project
    try:
        target = read_version(workspace, number)
        promoted = ledger.promotion_of(state.entries, number)
        if target is None:
            raise ValueError(f"Version {number} of {project.name!r} was deleted from MLflow. Nothing was moved.")
        if promoted is None:
            raise ValueError(f"Version {number} of {project.name!r} was never promoted. Nothing was moved.")
        if target.weights_digest != promoted.weights_digest:
            raise ValueError(
                f"Version {number} of {project.name!r} names weights with digest {target.weights_digest}, but"
                f" {promoted.weights_digest} was promoted (ledger entry {promoted.sequence}): they were replaced."
                " Nothing was moved."
            )
        verification.check_weights(target, workspace)
    except TrackingRefused:
        raise
    except ValueError as error:
        raise ValueError(f"{error} {_alternatives(number, state, workspace)}") from error
    return target


def _alternatives(number: int, state: ChampionState, workspace: Workspace) -> str:
    """Return the other rollback commands that can succeed."""
    here, behind = ledger.way_back(state.entries)[0], ledger.way_back(state.entries)[1:]
    others = (version for version in behind if version not in (None, number))
    there = (
        v
        for v in others
        if v is not None and registry.version_tags(workspace.settings, workspace.project.name, v) is not None
    )
    commands = [f"`plumbline rollback --to-version {version}`" for version in there][:1]
    commands += ["`plumbline rollback --to-base`"] * (here is not None)
    return f"Use one of: {', '.join(commands)}." if commands else "The base model stays in place."
