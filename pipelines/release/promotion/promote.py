"""Carry out a GateDecision: the only code that moves the aliases `champion` and `previous_champion`.

rollback.py and by_hand.py use it too. The order is ledger, previous_champion, champion, tags. The ledger entry comes
first and commits the move: a later call that finds the move incomplete (after a crash) completes it before anything
else. In the opposite order a crash would leave a champion without a record. Every step after the entry depends on the
entry alone and is idempotent.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from pipelines.contracts.release import Approval, CandidateVersion, GateDecision, LedgerEntry, Promotion
from pipelines.release.champion import ledger
from pipelines.release.champion.state import (
    LEDGER_TAG,
    ChampionState,
    entry_tag,
    previous_champion,
    read_state,
    tagged_version_of,
)
from pipelines.release.champion.versions import ingredients_of, trainers_of
from pipelines.release.gate import decision_log
from pipelines.release.promotion import approval as approvals
from pipelines.release.promotion import verification
from pipelines.settings import Settings
from pipelines.tracking import registry
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

_MoveOutcome = Literal[
    "promoted", "promoted_by_hand", "held", "rejected", "unchanged", "rolled_back", "rolled_forward", "restored"
]

OUTCOMES: Mapping[str, _MoveOutcome] = {
    "promote": "promoted",
    "by_hand": "promoted_by_hand",
    "rollback": "rolled_back",
    "forward": "rolled_forward",
    "restore": "restored",
}
"""Action of a ledger entry to the outcome that is reported for it."""


def promote(decision: GateDecision, workspace: Workspace, actor: str, *, approval: Approval | None = None) -> Promotion:
    """Make the candidate the champion if the verdict is `promote`, a required approval is given, the evidence is still
    the one that was judged, the champion did not move in the meantime, and no rollback left these weights before.

    Nothing moves, and the message gives the reason, if the verdict is not `promote`; if the policy is `off` or
    `dry_run`; if a required approval is missing, negative or from a person who may not approve; if a rollback left the
    candidate's weights and nobody approved their return; if the candidate already is the champion; or if this decision
    was carried out before. ValueError when the gate did not make this
    decision; when decision, version, weights, scores, policy or champion do not match; when the scores lead to another
    verdict; or when alias and ledger disagree.
    """
    project = workspace.project
    check_actor(actor)
    verification.check_decision(decision, workspace)
    state = read_state(project.name, workspace.settings)
    if state.problem:
        raise ValueError(state.problem)
    if state.unfinished:
        entry = settle(workspace)
        if entry.decision_digest == decision.digest:
            return carried_out(entry, entry, "completed an interrupted move")
        state = read_state(project.name, workspace.settings)
    if approval is not None:
        # Four-eyes principle: the actor who moves the alias may not approve it, even if the caller left it out.
        approval = approval.model_copy(update={"asked_by": (*approval.asked_by, actor)})
    rollback = left_by_rollback(decision.candidate, workspace, state.entries)
    answer = (
        _answered_before(decision, state)
        or _not_allowed(decision, workspace, state)
        or _not_approved(decision, workspace, state=state, approval=approval, rollback=rollback)
        or _not_returning(decision, workspace, state=state, rollback=rollback)
    )
    if answer is not None:
        return answer
    agreed = approval if approvals.needed(project.approval, decision, rollback, gate=project.gate) else None
    verification.check_evidence(decision, workspace)
    verification.check_champion(decision, workspace)
    entry = ledger.append(
        project.name,
        workspace.store,
        actor=actor,
        action="promote",
        from_version=decision.champion_version,
        to_version=decision.candidate.version,
        weights_digest=decision.candidate.weights_digest,
        decision_digest=decision.digest,
        report_uri=decision.report_uri,
        approver=agreed.by if agreed else "",
        approved_at=agreed.at if agreed else None,
    )
    return carried_out(entry, settle(workspace), "promoted")


def settle(workspace: Workspace) -> LedgerEntry:
    """Set aliases and tags to match the ledger's last entry; repeat until no newer entry appears.

    Returns that last entry. It is not the caller's if someone else moved the champion in the meantime.
    """
    while True:
        known = ledger.entries(workspace.project.name, workspace.store)
        _apply(known, workspace.settings)
        if len(ledger.entries(workspace.project.name, workspace.store)) == len(known):
            return known[-1]


def carried_out(entry: LedgerEntry, head: LedgerEntry, message: str) -> Promotion:
    """Return the result of an entry. `head` is the ledger's last entry, which may be a later move."""
    later = "" if head == entry else f"; then ledger entry {head.sequence} ({head.action} by {head.actor}) moved it to"
    later += f" {ledger.describe(head.to_version)}" if later else ""
    moved = f"{ledger.describe(entry.from_version)} -> {ledger.describe(entry.to_version)}"
    return Promotion(
        model=entry.model,
        moved=True,
        outcome=OUTCOMES[entry.action],
        from_version=entry.from_version,
        to_version=entry.to_version,
        decision_digest=entry.decision_digest,
        report_uri=entry.report_uri,
        ledger_entry=entry.sequence,
        message=f"{message}: {moved}{later}",
    )


def left_by_rollback(
    candidate: CandidateVersion, workspace: Workspace, known: Sequence[LedgerEntry]
) -> LedgerEntry | None:
    """Return the rollback that left the candidate's weights, or weights that it is an average of; None without one."""
    if not any(entry.action == "rollback" for entry in known):
        return None
    tags = registry.version_tags(workspace.settings, workspace.project.name, candidate.version) or {}
    return ledger.rollback_of(known, {candidate.weights_digest, *ingredients_of(tags)})


def check_actor(actor: str) -> None:
    """Raise ValueError if the actor is empty: the ledger needs a name."""
    if not actor.strip():
        raise ValueError(
            "The actor is empty, but the ledger records who moves the champion. Give a user name, for example."
        )


def champion_tags(known: Sequence[LedgerEntry]) -> dict[str, str]:
    """Return the tags that the champion must have according to the ledger. If the last entry moved to the base model,
    these are the tags of the version that it replaced."""
    head = known[-1]
    tags: dict[str, str] = {}
    if head.to_version is not None:
        promoted = ledger.promotion_of(known, head.to_version)
        tags = {**(_entry_tags(promoted) if promoted else {}), **_entry_tags(head)}
    return {**tags, LEDGER_TAG: entry_tag(head)}


# --- reasons not to move --------------------------------------------------------------------------------------------


def _answered_before(decision: GateDecision, state: ChampionState) -> Promotion | None:
    """Return the earlier result if this decision needs no further action, else None."""
    candidate = decision.candidate
    if state.champion == candidate.version:
        message = f"version {candidate.version} already is the champion; nothing was moved"
        return _unmoved(decision, state, message, entry=state.entries[-1])
    done = next((entry for entry in state.entries if entry.decision_digest == decision.digest), None)
    if done is not None:
        message = (
            f"this decision already made version {done.to_version} the champion in ledger entry {done.sequence}, and"
            " the alias has moved since; nothing was moved. A new evaluation or a rollback can bring it back"
        )
        return _unmoved(decision, state, message, entry=done)
    return None


def _not_allowed(decision: GateDecision, workspace: Workspace, state: ChampionState) -> Promotion | None:
    """Return the result if verdict or policy forbid the move, else None. A forbidden move tags the version with the
    verdict."""
    project = workspace.project
    candidate = decision.candidate
    modes = {decision.mode, project.gate.mode}
    if modes == {"enforce"} and decision.verdict == "promote":
        return None
    if registry.version_tags(workspace.settings, project.name, candidate.version) is not None:
        registry.set_version_tags(workspace.settings, project.name, candidate.version, _gate_tags(decision))
    if decision.verdict != "promote":
        message = f"the gate's verdict is {decision.verdict}: {' '.join(decision.reasons)}"
    else:
        mode = "off" if "off" in modes else "dry_run"
        by_hand = ". `plumbline promote --by-hand --reason TEXT` promotes without the gate" if mode == "off" else ""
        message = f"the gate's verdict is promote, but its mode is `{mode}`: nothing was moved{by_hand}"
    return _unmoved(decision, state, message, entry=None, outcome="held")


def _not_approved(
    decision: GateDecision,
    workspace: Workspace,
    *,
    state: ChampionState,
    approval: Approval | None,
    rollback: LedgerEntry | None,
) -> Promotion | None:
    """Return the result if a required approval is missing or negative, else None. An answer is recorded in the
    version's tags."""
    project = workspace.project
    if not approvals.needed(project.approval, decision, rollback, gate=project.gate):
        return None
    model, version = project.name, decision.candidate.version
    tags = registry.version_tags(workspace.settings, model, version) or {}
    if approval is not None:
        requested = decision_log.asked_by(decision, workspace) or ""
        involved = (*approval.asked_by, *trainers_of(tags), *([requested] if requested else []))
        approval = approval.model_copy(update={"asked_by": involved})
    reason = approvals.refusal(project.approval, decision, approval)
    if not reason:
        return None
    if approval is not None and tags:
        noted = {"approval.answer": approval.answer, "approval.by": approval.by, "approval.at": approval.at.isoformat()}
        registry.set_version_tags(workspace.settings, model, version, {**_gate_tags(decision), **noted})
    message = f"version {version} was not promoted: {reason}; nothing was moved"
    return _unmoved(decision, state, message, entry=None, outcome="rejected")


def _not_returning(
    decision: GateDecision, workspace: Workspace, *, state: ChampionState, rollback: LedgerEntry | None
) -> Promotion | None:
    """Return the result if a rollback left these weights and the project asks nobody about their return, else None."""
    if rollback is None or workspace.project.approval.mode != "none":
        return None
    version = decision.candidate.version
    message = (
        f"the weights of version {version}, or weights that they contain, were {ledger.describe_move(rollback)};"
        " nothing was moved. A person can restore a former champion with `plumbline rollback --forward --to-version N`;"
        ' with [approval] mode = "required" or "borderline", approvers are asked whether they may return'
    )
    return _unmoved(decision, state, message, entry=rollback, outcome="held")


def _gate_tags(decision: GateDecision) -> dict[str, str]:
    return {
        "gate.verdict": decision.verdict,
        "gate.mode": decision.mode,
        "gate.report_uri": decision.report_uri,
        "gate.decision_digest": decision.digest,
    }


# --- the move -------------------------------------------------------------------------------------------------------


def _apply(known: Sequence[LedgerEntry], settings: Settings) -> None:
    entry = known[-1]
    model = entry.model
    _point_back(known, settings)
    if entry.to_version is None:
        registry.delete_alias(settings, model, "champion")
    else:
        registry.set_alias(settings, model, "champion", entry.to_version)
    tagged = tagged_version_of(entry)
    if tagged is not None and registry.version_tags(settings, model, tagged) is not None:
        # Tags come last, the ledger tag last of all: it marks the move as complete.
        registry.set_version_tags(settings, model, tagged, champion_tags(known))
    log.info("Champion of %s: %s -> %s", model, ledger.describe(entry.from_version), ledger.describe(entry.to_version))


def _point_back(known: Sequence[LedgerEntry], settings: Settings) -> None:
    """Set `previous_champion` to the version that a rollback would restore; delete it if that is the base model."""
    model = known[-1].model
    previous = previous_champion(known, settings)
    if previous is None:
        registry.delete_alias(settings, model, "previous_champion")
    else:
        registry.set_alias(settings, model, "previous_champion", previous)


def _entry_tags(entry: LedgerEntry) -> dict[str, str]:
    """Return the tags that an entry sets on the version it moved to."""
    tags = {"champion.by": entry.actor, "champion.since": entry.at.isoformat()}
    if entry.action == "promote":
        tags |= {"gate.verdict": "promote", "gate.mode": "enforce"}
        tags |= {"gate.report_uri": entry.report_uri or "", "gate.decision_digest": entry.decision_digest or ""}
    if entry.action == "by_hand":
        tags |= {"gate.verdict": ledger.UNGATED, "gate.mode": "off"}
        tags |= {"gate.report_uri": entry.report_uri or "", "gate.decision_digest": ""}
    if entry.approver and entry.approved_at:
        tags |= {"approval.answer": "approve", "approval.by": entry.approver}
        tags |= {"approval.at": entry.approved_at.isoformat()}
    return tags


def _unmoved(
    decision: GateDecision,
    state: ChampionState,
    message: str,
    *,
    entry: LedgerEntry | None,
    outcome: _MoveOutcome = "unchanged",
) -> Promotion:
    return Promotion(
        model=decision.candidate.model,
        moved=False,
        outcome=outcome,
        from_version=state.champion,
        to_version=state.champion,
        decision_digest=decision.digest,
        report_uri=decision.report_uri,
        ledger_entry=entry.sequence if entry else None,
        message=message,
    )
