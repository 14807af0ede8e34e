"""GateDecision to alias, and the only code that moves `champion` and `previous_champion`; rollback.py calls it too.

The order is ledger, previous_champion, champion, tags. The ledger entry is the promise: once it is there the move is
due, and a call that finds it unkept (a crash in between) keeps it before anything else. The other way round, a crash
would leave a champion that no record explains. All that follows the entry is made from the entry alone and may be done
twice.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from pipelines.contracts.release import Approval, GateDecision, LedgerEntry, Promotion
from pipelines.release.champion import ledger
from pipelines.release.champion.state import (
    LEDGER_TAG,
    Standing,
    entry_tag,
    previous_champion,
    read_standing,
    witness,
)
from pipelines.release.champion.versions import trainers_of
from pipelines.release.promotion import approval as approvals
from pipelines.release.promotion import verification
from pipelines.settings import Settings
from pipelines.tracking import registry
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

Outcome = Literal["promoted", "held", "rejected", "unchanged", "rolled_back", "rolled_forward", "restored"]

OUTCOMES: Mapping[str, Outcome] = {
    "promote": "promoted",
    "rollback": "rolled_back",
    "forward": "rolled_forward",
    "restore": "restored",
}
"""What became of a ledger entry, by its action."""


def promote(decision: GateDecision, workspace: Workspace, actor: str, *, approval: Approval | None = None) -> Promotion:
    """Make the candidate champion if the decision says so, a person agrees where the project asks one, the evidence is
    still what was judged, and nobody moved the champion meanwhile.

    Nothing moves, and the message says why, when the verdict is another, the policy is `off` or `dry_run`, a wanted
    approval is missing, negative or given by somebody who may not, the candidate is champion already, or this decision
    was carried out before. ValueError when the gate made no such decision, when decision, version, weights, scores,
    policy or champion do not fit together, the scores lead to another verdict, or alias and ledger disagree.
    """
    project = workspace.project
    check_actor(actor)
    verification.check_decision(decision, workspace)
    standing = read_standing(project.name, workspace.settings)
    if standing.problem:
        raise ValueError(standing.problem)
    if standing.unfinished:
        entry = settle(workspace)
        if entry.decision_digest == decision.digest:
            return carried_out(entry, entry, "finished a move that was cut short")
        standing = read_standing(project.name, workspace.settings)
    if approval is not None:
        # Four eyes: whoever moves the alias is not the one who agrees to it, whatever the caller knows of who asked.
        approval = approval.model_copy(update={"asked_by": (*approval.asked_by, actor)})
    answer = (
        _answered_before(decision, standing)
        or _not_allowed(decision, workspace, standing)
        or _not_approved(decision, workspace, standing=standing, approval=approval)
    )
    if answer is not None:
        return answer
    agreed = approval if approvals.needed(project.approval, decision) else None
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
    """Bring aliases and tags to where the ledger's last entry puts them, and look whether it still is the last.

    Returns that last entry: another than the caller's own where somebody moved on meanwhile.
    """
    while True:
        known = ledger.entries(workspace.project.name, workspace.store)
        _apply(known, workspace.settings)
        if len(ledger.entries(workspace.project.name, workspace.store)) == len(known):
            return known[-1]


def carried_out(entry: LedgerEntry, head: LedgerEntry, message: str) -> Promotion:
    """What an entry did; `head` is the ledger's last entry after it, which may have gone on from there."""
    went_on = "" if head == entry else f"; then ledger entry {head.sequence} ({head.action} by {head.actor}) went on to"
    went_on += f" {ledger.describe(head.to_version)}" if went_on else ""
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
        message=f"{message}: {moved}{went_on}",
    )


def check_actor(actor: str) -> None:
    """ValueError where nobody would be on record."""
    if not actor.strip():
        raise ValueError("The ledger records who moves the champion. Give an actor, e.g. a user name or 'airflow'.")


def champion_tags(known: Sequence[LedgerEntry]) -> dict[str, str]:
    """What the tags of the champion must say by a ledger whose last entry put it there; of the version that was left,
    where the base model took its place."""
    head = known[-1]
    tags: dict[str, str] = {}
    if head.to_version is not None:
        promoted = ledger.promotion_of(known, head.to_version)
        tags = {**(_entry_tags(promoted) if promoted else {}), **_entry_tags(head)}
    return {**tags, LEDGER_TAG: entry_tag(head)}


# --- may it move? ---------------------------------------------------------------------------------------------------


def _answered_before(decision: GateDecision, standing: Standing) -> Promotion | None:
    """The first answer, when there is nothing left to do for this decision."""
    candidate = decision.candidate
    if standing.champion == candidate.version:
        message = f"version {candidate.version} is champion already; nothing was moved"
        return _unmoved(decision, standing, message, entry=standing.entries[-1])
    done = next((entry for entry in standing.entries if entry.decision_digest == decision.digest), None)
    if done is not None:
        message = (
            f"this decision made version {done.to_version} champion in ledger entry {done.sequence}, and the alias went"
            " on since; nothing was moved. A new evaluation, or a rollback, can bring it back"
        )
        return _unmoved(decision, standing, message, entry=done)
    return None


def _not_allowed(decision: GateDecision, workspace: Workspace, standing: Standing) -> Promotion | None:
    """Why policy or verdict forbid a move. The verdict is noted on the version either way."""
    project = workspace.project
    candidate = decision.candidate
    modes = {decision.mode, project.gate.mode}
    if modes == {"enforce"} and decision.verdict == "promote":
        return None
    if registry.version_tags(workspace.settings, project.name, candidate.version) is not None:
        registry.set_version_tags(workspace.settings, project.name, candidate.version, _gate_tags(decision))
    if decision.verdict != "promote":
        message = f"the gate said {decision.verdict}: {' '.join(decision.reasons)}"
    else:
        mode = "off" if "off" in modes else "dry_run"
        message = f"the gate said promote, but its policy is `{mode}`: nothing was moved"
    return _unmoved(decision, standing, message, entry=None, outcome="held")


def _not_approved(
    decision: GateDecision, workspace: Workspace, *, standing: Standing, approval: Approval | None
) -> Promotion | None:
    """Why the answer of a person, or the want of one, forbids a move. An answer is noted on the version."""
    project = workspace.project
    if not approvals.needed(project.approval, decision):
        return None
    model, version = project.name, decision.candidate.version
    tags = registry.version_tags(workspace.settings, model, version) or {}
    if approval is not None:
        approval = approval.model_copy(update={"asked_by": (*approval.asked_by, *trainers_of(tags))})
    reason = approvals.refusal(project.approval, decision, approval)
    if not reason:
        return None
    if approval is not None and tags:
        noted = {"approval.answer": approval.answer, "approval.by": approval.by, "approval.at": approval.at.isoformat()}
        registry.set_version_tags(workspace.settings, model, version, {**_gate_tags(decision), **noted})
    message = f"version {version} was not promoted: {reason}; nothing was moved"
    return _unmoved(decision, standing, message, entry=None, outcome="rejected")


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
    bearer = witness(entry)
    if bearer is not None and registry.version_tags(settings, model, bearer) is not None:
        # Last, and the ledger's own last of all: it says that all the rest is done.
        registry.set_version_tags(settings, model, bearer, champion_tags(known))
    log.info("Champion of %s: %s -> %s", model, ledger.describe(entry.from_version), ledger.describe(entry.to_version))


def _point_back(known: Sequence[LedgerEntry], settings: Settings) -> None:
    """`previous_champion` names the version that a rollback would go to, where that is not the base model."""
    model = known[-1].model
    previous = previous_champion(known, settings)
    if previous is None:
        registry.delete_alias(settings, model, "previous_champion")
    else:
        registry.set_alias(settings, model, "previous_champion", previous)


def _entry_tags(entry: LedgerEntry) -> dict[str, str]:
    """What an entry says about the version it moved to."""
    tags = {"champion.by": entry.actor, "champion.since": entry.at.isoformat()}
    if entry.action == "promote":
        tags |= {"gate.verdict": "promote", "gate.mode": "enforce"}
        tags |= {"gate.report_uri": entry.report_uri or "", "gate.decision_digest": entry.decision_digest or ""}
    if entry.approver and entry.approved_at:
        tags |= {"approval.answer": "approve", "approval.by": entry.approver}
        tags |= {"approval.at": entry.approved_at.isoformat()}
    return tags


def _unmoved(
    decision: GateDecision,
    standing: Standing,
    message: str,
    *,
    entry: LedgerEntry | None,
    outcome: Outcome = "unchanged",
) -> Promotion:
    return Promotion(
        model=decision.candidate.model,
        moved=False,
        outcome=outcome,
        from_version=standing.champion,
        to_version=standing.champion,
        decision_digest=decision.digest,
        report_uri=decision.report_uri,
        ledger_entry=entry.sequence if entry else None,
        message=message,
    )
