"""Find registered versions without a decision of the gate."""

from datetime import UTC, datetime, timedelta

from pipelines.release.champion import ledger
from pipelines.release.gate import decision_log
from pipelines.tracking import registry
from pipelines.workspace import Workspace


def awaiting_judgement(workspace: Workspace) -> list[int]:
    """List the versions of a project that have no decision in the store, newest first.

    A decision counts for a version together with its weights digest: a model that was deleted and created again reuses
    version numbers. Versions with the weights of a current or former champion are left out: the promote DAG ends their
    runs before the gate (`is_challenger`), or a rollback left them and only a person may restore them. ValueError when
    the ledger was changed.
    """
    registered = registry.tagged_versions(workspace.settings, workspace.project.name, registry.WEIGHTS_TAG)
    champions = {entry.weights_digest for entry in ledger.entries(workspace.project.name, workspace.store)}
    judged = decision_log.judged_versions(workspace)
    waiting = (own for own in registered.items() if own not in judged and own[1] not in champions)
    return sorted((version for version, _ in waiting), reverse=True)


def overdue(workspace: Workspace) -> str:
    """Name the versions that have waited for the gate longer than the project allows, as a sentence; empty without, and
    while the gate is off."""
    hours = workspace.project.reconcile.unjudged_hours
    if not hours or workspace.project.gate.mode == "off":
        return ""
    limit = datetime.now(UTC) - timedelta(hours=hours)
    name, settings = workspace.project.name, workspace.settings
    late = [own for own in awaiting_judgement(workspace) if registry.registered_at(settings, name, own) < limit]
    if not late:
        return ""
    which = f"version {late[0]} has" if len(late) == 1 else f"versions {', '.join(map(str, sorted(late)))} have"
    return (
        f"Of {name!r}, {which} waited for the gate for more than {hours:g} hours. Look whether {name}.promote is paused"
        " or fails, and trigger it. Delete versions that nobody wants, or raise unjudged_hours in [reconcile]."
    )
