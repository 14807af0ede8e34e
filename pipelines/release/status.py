"""Where a project stands, as JSON: champion, the one before, candidate, last decision, ledger. Changes nothing."""

from typing import Any

from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_standing
from pipelines.release.gate import decision_log
from pipelines.tracking import registry
from pipelines.tracking.errors import TrackingRefused
from pipelines.workspace import Workspace


def status(workspace: Workspace) -> dict[str, Any]:
    """What the registry, the ledger and the decisions say; `problems` says in words what does not fit together.

    Raises TrackingUnavailable when MLflow does not answer, TrackingRefused when it lets this user not look.
    """
    problems: list[str] = []
    versions = {alias: _version(workspace, alias, problems) for alias in ("champion", "previous_champion", "candidate")}
    return {
        "project": workspace.project.name,
        **versions,
        "last_decision": _last_decision(workspace, problems),
        "ledger": _ledger(workspace, problems),
        "problems": list(dict.fromkeys(problems)),
    }


def _version(workspace: Workspace, alias: str, problems: list[str]) -> dict[str, Any] | None:
    try:
        version = registry.get_alias(workspace.settings, workspace.project.name, alias)
        tags = (
            registry.version_tags(workspace.settings, workspace.project.name, version) if version is not None else None
        )
    except TrackingRefused:
        raise
    except ValueError as error:
        problems.append(str(error))
        return None
    if version is None or tags is None:
        return None
    return {"version": version, "weights_digest": tags.get(registry.WEIGHTS_TAG)}


def _last_decision(workspace: Workspace, problems: list[str]) -> dict[str, Any] | None:
    try:
        decision = decision_log.last_decision(workspace)
    except ValueError as error:
        problems.append(str(error))
        return None
    if decision is None:
        return None
    return {
        "verdict": decision.verdict,
        "report_uri": decision.report_uri,
        "candidate_version": decision.candidate.version,
        "digest": decision.digest,
    }


def _ledger(workspace: Workspace, problems: list[str]) -> dict[str, Any]:
    """How many moves there were, and whether the alias is where the last one put it."""
    try:
        standing = read_standing(workspace.project.name, workspace.settings)
    except ValueError as error:
        problems.append(str(error))
        return {"entries": None, "agrees_with_aliases": False}
    if standing.problem:
        problems.append(standing.problem)
    if standing.unfinished:
        problems.append("The last move was cut short. Run the same promote or rollback again: it finishes the move.")
    agrees = ledger.agrees_with_aliases(standing.entries, standing.champion)
    return {"entries": len(standing.entries), "agrees_with_aliases": agrees and not standing.problem}
