"""Stages after the verdict: approve, promote, roll back, reconcile, prune. Plain JSON in, plain JSON out.

Both a subcommand and a DAG task call them. All of them use the room pipelines/release.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.contracts.release import Approval, GateDecision, LedgerEntry
from pipelines.settings import load_settings
from pipelines.stages.values import Json, read_project, to_json
from pipelines.workspace import Workspace, open_workspace

AUTOMATION = "airflow"
"""Actor in the ledger for a decision that a schedule or an asset requested, as in the DAGs."""


def approval_question(path: str, decision: Json, *, asked_by: Sequence[str] = ()) -> Json | None:
    """Return the question to approvers before this decision takes effect; None if it needs no approval.

    Keys: subject, body (Markdown), approvers ([{id, name}]), asked_by and decision_digest. `asked_by` are the people
    who triggered the run; those who trained the candidate are added. ValueError when no allowed approver remains.
    """
    from pipelines.release.gate import decision_log
    from pipelines.release.promotion import approval
    from pipelines.tracking import pages

    project, settings, made = read_project(path), load_settings(), GateDecision.model_validate(decision)
    workspace = Workspace(project, settings)
    reason = approval.needed(project.approval, made, _rollback(made, workspace), gate=project.gate)
    if not reason:
        return None
    involved = _involved(workspace, made, [*asked_by, decision_log.asked_by(made, workspace) or ""])
    return {
        "subject": approval.subject(made),
        "body": approval.body(
            made,
            reason,
            asked_by=involved,
            report_page=pages.report_page(settings, made.candidate.model, made.candidate.version),
            sheet_page=pages.contact_sheet_page(settings, made.candidate.model, made.candidate.version),
        ),
        "approvers": [
            {"id": person.id, "name": person.name or person.id}
            for person in approval.askable(project.approval, involved)
        ],
        "asked_by": list(involved),
        "decision_digest": made.digest,
    }


def decision_of(path: str, digest: str) -> Json:
    """Return a decision of the gate by its digest; ValueError when there is none, or it was changed."""
    from pipelines.release.gate import decision_log

    workspace = open_workspace(path)
    found = decision_log.find_decision(digest, workspace)
    if found is None:
        raise ValueError(
            f"The gate made no decision {digest[:12]} about {workspace.project.name!r}. Give the digest of a decision"
            " in the store, as NAME.promote does."
        )
    return to_json(found)


def _involved(workspace: Workspace, decision: GateDecision, asked_by: Sequence[str]) -> tuple[str, ...]:
    """Return the people who requested the decision or trained the candidate, if known."""
    from pipelines.release.champion.versions import trainers_of
    from pipelines.tracking import registry

    tags = registry.version_tags(workspace.settings, workspace.project.name, decision.candidate.version) or {}
    return tuple(dict.fromkeys(name for name in (*asked_by, *trainers_of(tags)) if name))


def _rollback(decision: GateDecision, workspace: Workspace) -> LedgerEntry | None:
    """Return the rollback that left the candidate's weights, if any."""
    from pipelines.release.champion import ledger
    from pipelines.release.promotion.promote import left_by_rollback

    return left_by_rollback(decision.candidate, workspace, ledger.entries(workspace.project.name, workspace.store))


def may_need_approval(path: str) -> bool:
    """Return True if a promotion in this project may need an approval."""
    return read_project(path).approval.mode != "none"


def approve_by_hand(path: str, candidate: Json, *, user: str, digest: str = "") -> Json:
    """Approve the newest decision about the candidate at a shell, and promote it. Nothing is evaluated.

    `digest` selects a decision by the beginning of its digest. ValueError when there is no decision, no record of who
    requested it, or the user may not approve it; nothing is then moved or recorded.
    """
    from pipelines.release.gate import decision_log
    from pipelines.release.promotion import approval

    project, settings, version = read_project(path), load_settings(), int(candidate["version"])
    made = decision_log.last_decision_about(version, Workspace(project, settings), digest=digest)
    asker = decision_log.asked_by(made, Workspace(project, settings)) if made else None
    if made is None or asker is None:
        what = "there is no record of who requested the decision" if made else "the gate made no such decision about it"
        raise ValueError(
            f"There is nothing to approve for version {version} of {project.name!r}: {what}. One person runs"
            f" `plumbline promote {path}`, and another then approves with --approve."
        )
    decision = made.model_dump(mode="json")
    if not approval.needed(project.approval, made, _rollback(made, Workspace(project, settings)), gate=project.gate):
        return promote(path, decision, actor=user)
    answer = Approval(
        decision_digest=made.digest,
        answer="approve",
        by=user,
        at=datetime.now(UTC),
        asked_by=_involved(Workspace(project, settings), made, [asker]),
    )
    reason = approval.refusal(project.approval, made, answer)
    if reason:
        raise ValueError(f"Version {version} of {project.name!r} was not promoted: {reason}. Nothing was moved.")
    return promote(path, decision, actor=asker or AUTOMATION, approval=_json(answer))


def approval_instructions(path: str, decision: Json) -> str:
    """Return a message with the allowed approvers and their command; or that no allowed approver remains."""
    from pipelines.release.gate import decision_log
    from pipelines.release.promotion import approval

    project, settings, made = read_project(path), load_settings(), GateDecision.model_validate(decision)
    involved = _involved(
        Workspace(project, settings), made, [decision_log.asked_by(made, Workspace(project, settings)) or ""]
    )
    try:
        names = ", ".join(person.name or person.id for person in approval.askable(project.approval, involved))
    except ValueError as error:
        return str(error)
    return (
        f"{approval.subject(made)} One of these people has to approve: {names}. Read {made.report_uri}, then run:"
        f" plumbline promote {path} --version {made.candidate.version} --approve --decision {made.digest[:12]}"
    )


def promote(path: str, decision: Json, *, actor: str, approval: Json | None = None) -> Json:
    """Move the alias if the decision is to promote and any required approval is there; return the Promotion."""
    from pipelines.release.promotion import promote as promotion

    answer = Approval.model_validate(approval) if approval else None
    made = GateDecision.model_validate(decision)
    return _json(promotion.promote(made, Workspace(read_project(path), load_settings()), actor, approval=answer))


def promote_by_hand(path: str, *, actor: str, reason: str, version: int | None = None, forward: bool = False) -> Json:
    """Move the alias to a registered version without the gate, which must be off; return the Promotion."""
    from pipelines.release.promotion import by_hand

    workspace = open_workspace(path)
    return _json(by_hand.promote_by_hand(workspace, actor, reason, version=version, forward=forward))


def rollback(
    path: str,
    *,
    actor: str,
    reason: str,
    from_version: int | None = None,
    to_version: int | None = None,
    to_base: bool = False,
    forward: bool = False,
) -> Json:
    """Restore the previous champion, another version or the base model; with `forward`, undo a rollback."""
    from pipelines.release.promotion import rollback as rolling

    moved = rolling.rollback(
        Workspace(read_project(path), load_settings()),
        actor,
        reason,
        from_version=from_version,
        to_version=to_version,
        to_base=to_base,
        forward=forward,
    )
    return _json(moved)


def reconcile(path: str, *, actor: str, restore: bool | None = None) -> Json:
    """Compare alias, ledger and tags, and act according to the project's policy; return the Reconciliation."""
    from pipelines.release.promotion import reconcile as reconciling

    return _json(reconciling.reconcile(Workspace(read_project(path), load_settings()), actor, restore=restore))


def history(path: str) -> list[Json]:
    """Return the ledger, oldest move first."""
    return [_json(entry) for entry in _entries(path)]


def history_table(path: str) -> str:
    """Return the ledger as a text table."""
    from pipelines.release.champion import ledger

    return ledger.table(_entries(path))


def _entries(path: str) -> tuple[LedgerEntry, ...]:
    """Read every entry; ValueError when there are none although the registry refers to one."""
    from pipelines.release.champion import ledger
    from pipelines.release.champion.state import read_state

    workspace = open_workspace(path)
    known = ledger.entries(workspace.project.name, workspace.store)
    standing = None if known else read_state(workspace.project.name, workspace.settings)
    if standing is not None and standing.cut_off:
        raise ValueError(standing.problem)
    return known


def prune(path: str, *, keep: int) -> Json:
    """Delete the oldest versions that nothing refers to, except the newest `keep`."""
    from pipelines.release.registration import pruning

    return pruning.prune(Workspace(read_project(path), load_settings()), keep=keep)


def _json(value: Any) -> Json:
    plain: Json = value.model_dump(mode="json")
    return plain
