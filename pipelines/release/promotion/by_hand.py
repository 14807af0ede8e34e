"""Promote a version by hand, while the gate is off. No judge compares it with the champion: it is ungated.

Everything else is as in a promotion by the gate: the registered weights, the files that MLflow serves and their
signature are verified, the ledger records who moved the alias and the reason, and a rollback can leave it or return to
it.
"""

from pipelines.contracts.release import CandidateVersion, LedgerEntry, Promotion
from pipelines.release.champion import ledger
from pipelines.release.champion.state import ChampionState, read_state
from pipelines.release.champion.versions import read_version, trainers_of
from pipelines.release.pages.ungated_page import show_ungated, write_ungated_card
from pipelines.release.promotion import verification
from pipelines.release.promotion.promote import carried_out, check_actor, left_by_rollback, settle
from pipelines.tracking import registry
from pipelines.workspace import Workspace


def promote_by_hand(
    workspace: Workspace, actor: str, reason: str, *, version: int | None = None, forward: bool = False
) -> Promotion:
    """Make a registered version (default: that of the alias `candidate`) the champion without the gate.

    `forward` allows weights that a rollback left. Nothing moves if the version already is the champion.

    ValueError when the gate is not off; without a reason or an actor; when the project has approvers and the actor is
    none of them, or trained the version; when the version does not exist, its weights are not the registered ones, or
    alias and ledger disagree; and without `forward` for weights that a rollback left.
    """
    project = workspace.project
    check_actor(actor)
    _check_order(workspace, reason)
    state = read_state(project.name, workspace.settings)
    if state.problem:
        raise ValueError(state.problem)
    finished = settle(workspace) if state.unfinished else None
    candidate = _version(workspace, version)
    if finished is not None:
        if (finished.action, finished.to_version) == ("by_hand", candidate.version):
            return _shown(workspace, finished, finished, "completed an interrupted promotion by hand")
        state = read_state(project.name, workspace.settings)
    if state.champion == candidate.version:
        return _unmoved(workspace, state)
    _check_person(workspace, candidate, actor)
    _check_not_left(workspace, candidate, state, forward)
    verification.check_weights(candidate, workspace)
    card = write_ungated_card(workspace, candidate, actor=actor, reason=reason, move=len(state.entries) + 1)
    entry = ledger.append(
        project.name,
        workspace.store,
        actor=actor,
        action="by_hand",
        from_version=state.champion,
        to_version=candidate.version,
        weights_digest=candidate.weights_digest,
        decision_digest=None,
        report_uri=card,
        reason=reason,
    )
    return _shown(workspace, entry, settle(workspace), "promoted by hand, ungated")


def _shown(workspace: Workspace, entry: LedgerEntry, head: LedgerEntry, message: str) -> Promotion:
    """Mark the version's page as ungated, and return the result."""
    show_ungated(workspace, entry)
    return carried_out(entry, head, message)


def _unmoved(workspace: Workspace, state: ChampionState) -> Promotion:
    last = state.entries[-1]
    if last.action == "by_hand":
        show_ungated(workspace, last)
    message = f"version {state.champion} already is the champion, {ledger.describe_move(last)}; nothing was moved"
    return carried_out(last, last, "").model_copy(update={"moved": False, "outcome": "unchanged", "message": message})


# --- refusals -------------------------------------------------------------------------------------------------------


def _check_order(workspace: Workspace, reason: str) -> None:
    project = workspace.project
    if project.gate.mode != "off":
        raise ValueError(
            f"The mode of the gate of {project.name!r} is {project.gate.mode!r}, so the gate decides what is promoted:"
            f' run `plumbline promote {project.path}`. To promote by hand, set mode = "off" in [gate] of that file.'
            " To return to a former champion, use `plumbline rollback`. Nothing was moved."
        )
    if not reason.strip():
        raise ValueError(
            "The reason is empty, but the ledger records it. Give one, e.g. --reason 'better hands in 30 of 40 images'."
        )


def _version(workspace: Workspace, version: int | None) -> CandidateVersion:
    found = read_version(workspace, version if version is not None else "candidate")
    if found is None:
        name = workspace.project.name
        there = ", ".join(map(str, registry.list_versions(workspace.settings, name)))
        lacks = f"version {version}" if version is not None else "candidate (alias `candidate` is not set)"
        hint = f"Name one of its versions: {there}." if there else "Train one first."
        raise ValueError(f"Model {name!r} has no {lacks}. {hint} Nothing was moved.")
    return found


def _check_person(workspace: Workspace, candidate: CandidateVersion, actor: str) -> None:
    """Keep the approvers of a project the only people who promote, and not what they trained themselves."""
    project = workspace.project
    if project.approval.mode == "none":
        return
    names = ", ".join(person.name or person.id for person in project.approval.approvers)
    person = next((known for known in project.approval.approvers if known.is_called(actor)), None)
    if person is None:
        raise ValueError(
            f"{actor} may not promote by hand: [approval] of {project.name!r} names {names}. One of them has to run"
            " this command. Nothing was moved."
        )
    tags = registry.version_tags(workspace.settings, project.name, candidate.version) or {}
    if any(person.may_be(name) for name in trainers_of(tags)):
        raise ValueError(
            f"{actor} trained version {candidate.version} of {project.name!r}, so another of {names} has to promote it."
            " Nothing was moved."
        )


def _check_not_left(workspace: Workspace, candidate: CandidateVersion, state: ChampionState, forward: bool) -> None:
    rollback = left_by_rollback(candidate, workspace, state.entries)
    if rollback is not None and not forward:
        raise ValueError(
            f"The weights of version {candidate.version} of {workspace.project.name!r}, or weights that they contain,"
            f" were {ledger.describe_move(rollback)}. Nothing was moved. To promote them anyway, add --forward."
        )
