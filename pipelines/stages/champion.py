"""The stages after the verdict: asked, promoted, rolled back, compared, cleared away. Plain JSON in, plain JSON out.

What a subcommand and a DAG task both call, as in stages.py; all of it is the release wing's.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.contracts.release import Approval, GateDecision, LedgerEntry
from pipelines.settings import load_settings
from pipelines.stages.values import Json, read_project
from pipelines.workspace import Workspace, open_workspace

NOBODY = "airflow"
"""Who moves the champion when a schedule or an asset had it judged, for the ledger; as in the DAGs."""


def approval_question(path: str, decision: Json, *, asked_by: Sequence[str] = ()) -> Json | None:
    """What a person is asked before this decision is carried out, None when nobody has to be.

    Keys: subject, body (Markdown), approvers ([{id, name}]), asked_by and decision_digest. `asked_by` names who
    triggered the run; whoever trained the candidate is added. ValueError when nobody is left who may approve.
    """
    from pipelines.release.promotion import approval

    project, settings, made = read_project(path), load_settings(), GateDecision.model_validate(decision)
    reason = approval.needed(project.approval, made)
    if not reason:
        return None
    involved = _involved(Workspace(project, settings), made, asked_by)
    return {
        "subject": approval.subject(made),
        "body": approval.body(made, reason, asked_by=involved),
        "approvers": [
            {"id": person.id, "name": person.name or person.id}
            for person in approval.askable(project.approval, involved)
        ],
        "asked_by": list(involved),
        "decision_digest": made.digest,
    }


def _involved(workspace: Workspace, decision: GateDecision, asked_by: Sequence[str]) -> tuple[str, ...]:
    """Who had the decision made or trained the candidate, where known."""
    from pipelines.release.champion.versions import trainers_of
    from pipelines.tracking import registry

    tags = registry.version_tags(workspace.settings, workspace.project.name, decision.candidate.version) or {}
    return tuple(dict.fromkeys(name for name in (*asked_by, *trainers_of(tags)) if name))


def asks_somebody(path: str) -> bool:
    """Whether a person may have to agree before the project's champion moves."""
    return read_project(path).approval.mode != "none"


def approve_by_hand(path: str, candidate: Json, *, user: str, digest: str = "") -> Json:
    """Agree at a shell to the newest decision about the candidate, and carry it out; nothing is judged here.

    `digest` is the beginning of the digest of the one that was read. ValueError when there is none to agree to, nobody
    is on record as having had it made, or the project does not let this user agree: then nothing is moved or noted.
    """
    from pipelines.release.gate import decision_log
    from pipelines.release.promotion import approval

    project, settings, version = read_project(path), load_settings(), int(candidate["version"])
    made = decision_log.last_decision_about(version, Workspace(project, settings), digest=digest)
    asker = decision_log.asked_by(made, Workspace(project, settings)) if made else None
    if made is None or asker is None:
        what = "who had it decided is not on record" if made else "the gate made no such decision about it"
        raise ValueError(
            f"There is nothing to agree to for version {version} of {project.name!r}: {what}. One person runs"
            f" `plumbline promote {path}`, another then agrees with --approve."
        )
    decision = made.model_dump(mode="json")
    if not approval.needed(project.approval, made):
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
    return promote(path, decision, actor=asker or NOBODY, approval=_json(answer))


def who_may_agree(path: str, decision: Json) -> str:
    """How a person agrees to a decision at a shell, for whoever had it made; or that nobody is left who may."""
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
        f"{approval.subject(made)} A person has to agree: {names}. Read {made.report_uri}, then run: plumbline promote"
        f" {path} --version {made.candidate.version} --approve --decision {made.digest[:12]}"
    )


def promote(path: str, decision: Json, *, actor: str, approval: Json | None = None) -> Json:
    """Move the alias if the decision says so, and a person agrees where the project asks one; tells what happened."""
    from pipelines.release.promotion import promote as promotion

    answer = Approval.model_validate(approval) if approval else None
    made = GateDecision.model_validate(decision)
    return _json(promotion.promote(made, Workspace(read_project(path), load_settings()), actor, approval=answer))


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
    """Restore the previous champion, or the base model; forward again where that is asked for."""
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
    """Compare alias, ledger and tags, and act by the project's policy; the Reconciliation tells what was found."""
    from pipelines.release.promotion import reconcile as reconciling

    return _json(reconciling.reconcile(Workspace(read_project(path), load_settings()), actor, restore=restore))


def history(path: str) -> list[Json]:
    """The ledger, oldest move first."""
    return [_json(entry) for entry in _entries(path)]


def history_table(path: str) -> str:
    """The ledger as people read it."""
    from pipelines.release.champion import ledger

    return ledger.table(_entries(path))


def _entries(path: str) -> tuple[LedgerEntry, ...]:
    """Every entry; ValueError where there is none, though the registry knows of one."""
    from pipelines.release.champion import ledger
    from pipelines.release.champion.state import read_state

    workspace = open_workspace(path)
    known = ledger.entries(workspace.project.name, workspace.store)
    standing = None if known else read_state(workspace.project.name, workspace.settings)
    if standing is not None and standing.cut_off:
        raise ValueError(standing.problem)
    return known


def prune(path: str, *, keep: int) -> Json:
    """Delete the oldest versions that nothing names, the newest `keep` apart."""
    from pipelines.release.registration import pruning

    return pruning.prune(Workspace(read_project(path), load_settings()), keep=keep)


def _json(value: Any) -> Json:
    answer: Json = value.model_dump(mode="json")
    return answer
