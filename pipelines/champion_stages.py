"""The stages after the verdict: asked, promoted, rolled back, compared, cleared away. Plain JSON in, plain JSON out.

What a subcommand and a DAG task both call, as in stages.py; all of it is the release wing's.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.contracts import Approval, GateDecision
from pipelines.settings import load_settings
from pipelines.stages import Json, read_project


def approval_question(path: str, decision: Json, *, asked_by: Sequence[str] = ()) -> Json | None:
    """What a person is asked before this decision is carried out, None when nobody has to be.

    Keys: subject, body (Markdown), approvers ([{id, name}]), asked_by and decision_digest. `asked_by` names who
    triggered the run; whoever trained the candidate is added. ValueError when nobody is left who may approve.
    """
    from pipelines import registry
    from pipelines.release import approval
    from pipelines.release.registration import TRAINED_BY_TAG

    project, settings, made = read_project(path), load_settings(), GateDecision.model_validate(decision)
    reason = approval.needed(project.approval, made)
    if not reason:
        return None
    tags = registry.version_tags(settings, project.name, made.candidate.version) or {}
    involved = tuple(dict.fromkeys(name for name in (*asked_by, tags.get(TRAINED_BY_TAG, "")) if name))
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


def approval_by_hand(decision: Json, *, user: str, asked_by: Sequence[str] = ()) -> Json:
    """The Approval of a person at a shell."""
    digest = GateDecision.model_validate(decision).digest
    approval = Approval(
        decision_digest=digest, answer="approve", by=user, at=datetime.now(UTC), asked_by=tuple(asked_by)
    )
    return _json(approval)


def promote(path: str, decision: Json, *, actor: str, approval: Json | None = None) -> Json:
    """Move the alias if the decision says so, and a person agrees where the project asks one; tells what happened."""
    from pipelines.release import promotion

    answer = Approval.model_validate(approval) if approval else None
    made = GateDecision.model_validate(decision)
    return _json(promotion.promote(made, read_project(path), load_settings(), actor, approval=answer))


def rollback(path: str, *, actor: str, reason: str, to_base: bool = False) -> Json:
    """Restore the previous champion, or the base model."""
    from pipelines.release import promotion

    return _json(promotion.rollback(read_project(path), load_settings(), actor, reason, to_base=to_base))


def reconcile(path: str, *, actor: str, restore: bool | None = None) -> Json:
    """Compare alias, ledger and tags, and act by the project's policy; the Reconciliation tells what was found."""
    from pipelines.release import reconcile as reconciling

    return _json(reconciling.reconcile(read_project(path), load_settings(), actor, restore=restore))


def history(path: str) -> list[Json]:
    """The ledger, oldest move first."""
    from pipelines.release import ledger

    return [_json(entry) for entry in ledger.entries(read_project(path).name, load_settings())]


def history_table(path: str) -> str:
    """The ledger as people read it."""
    from pipelines.release import ledger

    return ledger.table(ledger.entries(read_project(path).name, load_settings()))


def prune(path: str, *, keep: int) -> Json:
    """Delete the oldest versions that nothing names, the newest `keep` apart."""
    from pipelines.release import pruning

    return pruning.prune(read_project(path), load_settings(), keep=keep)


def _json(value: Any) -> Json:
    answer: Json = value.model_dump(mode="json")
    return answer
