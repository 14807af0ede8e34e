"""Report the status of a project as JSON: champion, candidate, decision, data, ledger, compute time. Read only."""

from typing import Any

from pipelines.records.compute import total_compute
from pipelines.records.snapshots import last_snapshot
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.release.champion.versions import WORSE_TAG
from pipelines.release.gate import decision_log
from pipelines.tracking import pages, registry
from pipelines.tracking.errors import TrackingRefused
from pipelines.workspace import Workspace


def status(workspace: Workspace) -> dict[str, Any]:
    """Return what registry, ledger and decisions contain; `problems` describes every disagreement in a sentence.

    Raises TrackingUnavailable when MLflow does not answer, TrackingRefused when it denies this user access.
    """
    problems: list[str] = []
    versions = {alias: _version(workspace, alias, problems) for alias in ("champion", "previous_champion", "candidate")}
    return {
        "project": workspace.project.name,
        **versions,
        "last_decision": _last_decision(workspace, problems),
        "data_report": _data_report(workspace),
        "ledger": _ledger(workspace, problems),
        "compute": total_compute(workspace.store, workspace.project.name).model_dump(mode="json"),
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
    found = {"version": version, "weights_digest": tags.get(registry.WEIGHTS_TAG)}
    if tags.get("gate.verdict") == ledger.UNGATED:
        found["ungated"] = "A person promoted it while the gate was off; `plumbline ledger` says who, when and why."
    if WORSE_TAG in tags:
        found["warning"] = (
            f"At the end of its training the chosen images were predicted worse than by the base, for {tags[WORSE_TAG]}"
            " steps in a row; see the training curves in its report."
        )
    return found


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


def _data_report(workspace: Workspace) -> dict[str, Any] | None:
    """Return the newest snapshot with the address of its report in the store and, with a server, in MLflow."""
    newest = last_snapshot(workspace.store, workspace.project.name)
    if newest is None:
        return None
    page = pages.data_report_page(workspace.settings, workspace.project.name, newest.snapshot_digest)
    return {
        "snapshot_digest": newest.snapshot_digest,
        "num_pairs": newest.num_pairs,
        "report_uri": newest.report_uri,
        "page": page,
    }


def _ledger(workspace: Workspace, problems: list[str]) -> dict[str, Any]:
    """Return the number of moves, and whether the alias agrees with the last one."""
    try:
        state = read_state(workspace.project.name, workspace.settings)
    except ValueError as error:
        problems.append(str(error))
        return {"entries": None, "agrees_with_aliases": False}
    if state.problem:
        problems.append(state.problem)
    if state.unfinished:
        problems.append("The last move was interrupted. Run the same promote or rollback again to complete it.")
    agrees = ledger.agrees_with_aliases(state.entries, state.champion)
    return {"entries": len(state.entries), "agrees_with_aliases": agrees and not state.problem}
