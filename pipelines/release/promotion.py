"""GateDecision to alias: the only code that moves `champion` and `previous_champion`.

The order is ledger, previous_champion, champion, tags. The ledger entry is the promise: once it is there the move is
due, and a call that finds it unkept (a crash in between) keeps it before anything else. The other way round, a crash
would leave a champion that no record explains. All that follows the entry is made from the entry alone and may be done
twice.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from pipelines import registry
from pipelines.contracts import Approval, CandidateVersion, GateDecision, LedgerEntry, Promotion
from pipelines.project import Project
from pipelines.release import approval as approvals
from pipelines.release import ledger, verification
from pipelines.release.registration import read_version, trainers_of
from pipelines.release.standing import LEDGER_TAG, Standing, entry_tag, read_standing, witness
from pipelines.settings import Settings

log = logging.getLogger(__name__)

Outcome = Literal["promoted", "held", "rejected", "unchanged", "rolled_back", "restored"]

OUTCOMES: Mapping[str, Outcome] = {"promote": "promoted", "rollback": "rolled_back", "restore": "restored"}
"""What became of a ledger entry, by its action."""


def promote(
    decision: GateDecision, project: Project, settings: Settings, actor: str, *, approval: Approval | None = None
) -> Promotion:
    """Make the candidate champion if the decision says so, a person agrees where the project asks one, the evidence is
    still what was judged, and nobody moved the champion meanwhile.

    Nothing moves, and the message says why, when the verdict is another, the policy is `off` or `dry_run`, a wanted
    approval is missing, negative or given by somebody who may not, the candidate is champion already, or this decision
    was carried out before. ValueError when the gate made no such decision, when decision, version, weights, scores,
    policy or champion do not fit together, the scores lead to another verdict, or alias and ledger disagree.
    """
    _check_actor(actor)
    verification.check_decision(decision, project, settings)
    standing = read_standing(project.name, settings)
    if standing.problem:
        raise ValueError(standing.problem)
    if standing.unfinished:
        entry = _settle(project, settings)
        if entry.decision_digest == decision.digest:
            return _moved(entry, "finished a move that was cut short")
        standing = read_standing(project.name, settings)
    if approval is not None:
        # Four eyes: whoever moves the alias is not the one who agrees to it, whatever the caller knows of who asked.
        approval = approval.model_copy(update={"asked_by": (*approval.asked_by, actor)})
    answer = (
        _answered_before(decision, standing)
        or _not_allowed(decision, project, settings, standing)
        or _not_approved(decision, project, settings, standing=standing, approval=approval)
    )
    if answer is not None:
        return answer
    agreed = approval if approvals.needed(project.approval, decision) else None
    verification.check_evidence(decision, project, settings)
    verification.check_champion(decision, project, settings)
    entry = ledger.append(
        project.name,
        settings,
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
    _settle(project, settings)
    return _moved(entry, "promoted")


def rollback(
    project: Project,
    settings: Settings,
    actor: str,
    reason: str,
    *,
    from_version: int | None = None,
    to_base: bool = False,
) -> Promotion:
    """Put `previous_champion` back, or the base model where the champion was the first, or `to_base` asks for it.

    `previous_champion` then names the version rolled back from, so that a second call rolls forward. A caller that may
    be retried names the champion it means to leave in `from_version`: when that was rolled back from already, nothing
    moves. Works even when the champion's version was deleted. ValueError without a reason or anything to go back to,
    when the champion is another than `from_version`, or the weights to go back to have changed.
    """
    _check_actor(actor)
    if not reason.strip():
        raise ValueError("A rollback needs a reason, for the ledger. Give one, e.g. 'too many black images'.")
    standing = read_standing(project.name, settings)
    if standing.unfinished:
        entry = _settle(project, settings)
        if entry.action == "rollback":
            return _moved(entry, "finished a rollback that was cut short")
        standing = read_standing(project.name, settings)
    if standing.problem and not (standing.deleted and standing.entries):
        raise ValueError(standing.problem)
    repeated = _rolled_back_before(standing, from_version)
    if repeated is not None:
        return repeated
    target = _rollback_target(project, settings, standing, to_base=to_base)
    leaving = standing.entries[-1].to_version
    entry = ledger.append(
        project.name,
        settings,
        actor=actor,
        action="rollback",
        from_version=leaving,
        to_version=target.version if target else None,
        weights_digest=target.weights_digest if target else _base_digest(project, settings, leaving),
        decision_digest=None,
        report_uri=None,
        reason=reason,
    )
    _settle(project, settings)
    return _moved(entry, "rolled back")


def restore(project: Project, settings: Settings, actor: str, reason: str) -> LedgerEntry:
    """Put an alias that was moved by hand, and the tags of the champion, back to what the ledger says; note it there.

    ValueError when the ledger itself, or the champion's weights, are not sound.
    """
    _check_actor(actor)
    standing = read_standing(project.name, settings)
    if standing.problem and not standing.by_hand:
        raise ValueError(standing.problem)
    head = standing.entries[-1] if standing.entries else None
    version = head.to_version if head else None
    if version is not None:
        champion = read_version(project, settings, version)
        assert champion is not None, "its tags were read a moment ago"
        verification.check_weights(champion, project, settings)
    entry = ledger.append(
        project.name,
        settings,
        actor=actor,
        action="restore",
        from_version=version,
        to_version=version,
        weights_digest=head.weights_digest if head else None,
        decision_digest=None,
        report_uri=None,
        reason=reason,
    )
    _settle(project, settings)
    return entry


def finish(project: Project, settings: Settings) -> LedgerEntry:
    """Carry out what the ledger's last entry promises, when the move was cut short."""
    return _settle(project, settings)


def champion_tags(known: Sequence[LedgerEntry]) -> dict[str, str]:
    """What the tags of the champion must say by a ledger whose last entry put it there; of the version that was left,
    where the base model took its place."""
    head = known[-1]
    tags: dict[str, str] = {}
    if head.to_version is not None:
        promoted = [e for e in known if e.action == "promote" and e.to_version == head.to_version]
        tags = {**(_entry_tags(promoted[-1]) if promoted else {}), **_entry_tags(head)}
    return {**tags, LEDGER_TAG: entry_tag(head)}


# --- may it move? ---------------------------------------------------------------------------------------------------


def _check_actor(actor: str) -> None:
    if not actor.strip():
        raise ValueError("The ledger records who moves the champion. Give an actor, e.g. a user name or 'airflow'.")


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


def _not_allowed(decision: GateDecision, project: Project, settings: Settings, standing: Standing) -> Promotion | None:
    """Why policy or verdict forbid a move. The verdict is noted on the version either way."""
    candidate = decision.candidate
    modes = {decision.mode, project.gate.mode}
    if modes == {"enforce"} and decision.verdict == "promote":
        return None
    if registry.version_tags(settings, project.name, candidate.version) is not None:
        registry.set_version_tags(settings, project.name, candidate.version, _gate_tags(decision))
    if decision.verdict != "promote":
        message = f"the gate said {decision.verdict}: {' '.join(decision.reasons)}"
    else:
        mode = "off" if "off" in modes else "dry_run"
        message = f"the gate said promote, but its policy is `{mode}`: nothing was moved"
    return _unmoved(decision, standing, message, entry=None, outcome="held")


def _not_approved(
    decision: GateDecision, project: Project, settings: Settings, *, standing: Standing, approval: Approval | None
) -> Promotion | None:
    """Why the answer of a person, or the want of one, forbids a move. An answer is noted on the version."""
    if not approvals.needed(project.approval, decision):
        return None
    model, version = project.name, decision.candidate.version
    tags = registry.version_tags(settings, model, version) or {}
    if approval is not None:
        approval = approval.model_copy(update={"asked_by": (*approval.asked_by, *trainers_of(tags))})
    reason = approvals.refusal(project.approval, decision, approval)
    if not reason:
        return None
    if approval is not None and tags:
        noted = {"approval.answer": approval.answer, "approval.by": approval.by, "approval.at": approval.at.isoformat()}
        registry.set_version_tags(settings, model, version, {**_gate_tags(decision), **noted})
    message = f"version {version} was not promoted: {reason}; nothing was moved"
    return _unmoved(decision, standing, message, entry=None, outcome="rejected")


def _gate_tags(decision: GateDecision) -> dict[str, str]:
    return {
        "gate.verdict": decision.verdict,
        "gate.mode": decision.mode,
        "gate.report_uri": decision.report_uri,
        "gate.decision_digest": decision.digest,
    }


# --- where to go back to ---------------------------------------------------------------------------------------------


def _rolled_back_before(standing: Standing, from_version: int | None) -> Promotion | None:
    """The first answer to a rollback that is asked for again; ValueError when another champion was meant."""
    head = standing.entries[-1] if standing.entries else None
    if head is None or from_version is None or head.to_version == from_version:
        return None
    if head.action == "rollback" and head.from_version == from_version:
        return _moved(head, "had been rolled back already; nothing was moved").model_copy(
            update={"moved": False, "outcome": "unchanged"}
        )
    raise ValueError(
        f"The champion of {head.model!r} is version {head.to_version}, not {from_version}. Nothing was moved. Name the"
        " champion that you want to leave."
    )


def _rollback_target(
    project: Project, settings: Settings, standing: Standing, *, to_base: bool
) -> CandidateVersion | None:
    """The version to go back to; None for the base model."""
    moves = [entry for entry in standing.entries if entry.action != "restore"]
    if not moves or (to_base and moves[-1].to_version is None):
        raise ValueError(f"Model {project.name!r} has no champion: the base model is in place. Nothing was moved.")
    current = moves[-1].to_version
    if to_base:
        return None
    target = read_version(project, settings, "previous_champion")
    if target is not None and target.version != current:
        verification.check_weights(target, project, settings)
        return target
    if moves[-1].from_version is None and current is not None:
        return None
    raise ValueError(
        f"Model {project.name!r} has no previous champion to go back to from {ledger.describe(current)}. Nothing was"
        " moved. Point alias `previous_champion` at a version in MLflow to choose one, or go back to the base model"
        " (--to-base)."
    )


def _base_digest(project: Project, settings: Settings, leaving: int | None) -> str | None:
    """Digest of the base model that the champion was trained from, None when its version is gone."""
    tags = registry.version_tags(settings, project.name, leaving) if leaving is not None else None
    return (tags or {}).get("base.digest")


# --- the move -------------------------------------------------------------------------------------------------------


def _settle(project: Project, settings: Settings) -> LedgerEntry:
    """Bring aliases and tags to where the ledger's last entry puts them, and look whether it still is the last."""
    while True:
        known = ledger.entries(project.name, settings)
        _apply(known, settings)
        if len(ledger.entries(project.name, settings)) == len(known):
            return known[-1]


def _apply(known: Sequence[LedgerEntry], settings: Settings) -> None:
    entry = known[-1]
    model = entry.model
    if entry.action != "restore":
        _point_back(entry, settings)
    if entry.to_version is None:
        registry.delete_alias(settings, model, "champion")
    else:
        registry.set_alias(settings, model, "champion", entry.to_version)
    bearer = witness(entry)
    if bearer is not None and registry.version_tags(settings, model, bearer) is not None:
        # Last, and the ledger's own last of all: it says that all the rest is done.
        registry.set_version_tags(settings, model, bearer, champion_tags(known))
    log.info("Champion of %s: %s -> %s", model, ledger.describe(entry.from_version), ledger.describe(entry.to_version))


def _point_back(entry: LedgerEntry, settings: Settings) -> None:
    """`previous_champion` names the version that was left, where there is one still."""
    leaving = entry.from_version
    if leaving is not None and registry.version_tags(settings, entry.model, leaving) is not None:
        registry.set_alias(settings, entry.model, "previous_champion", leaving)
    else:
        registry.delete_alias(settings, entry.model, "previous_champion")


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


def _moved(entry: LedgerEntry, message: str) -> Promotion:
    return Promotion(
        model=entry.model,
        moved=True,
        outcome=OUTCOMES[entry.action],
        from_version=entry.from_version,
        to_version=entry.to_version,
        decision_digest=entry.decision_digest,
        report_uri=entry.report_uri,
        ledger_entry=entry.sequence,
        message=f"{message}: {ledger.describe(entry.from_version)} -> {ledger.describe(entry.to_version)}",
    )


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
