"""Delete old versions from the registry, except those that an alias names or that a rollback may restore.

MLflow deletes a version together with its aliases without a warning, so only this module calls it, after checking.
Weights, evaluations and reports stay in the store.
"""

import logging
from typing import Any

from pipelines.release.champion import ledger
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import registry
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

KEPT_PROMOTIONS = 3
"""Number of promoted versions that are kept: the champion and two others to roll back or forward to."""


def prune(workspace: Workspace, *, keep: int) -> dict[str, Any]:
    """Delete all but the newest `keep` versions and the needed ones; return the deleted and the kept with a reason."""
    project, settings = workspace.project, workspace.settings
    if keep < 0:
        raise ValueError(f"--keep is {keep}. Give the number of newest versions to keep, 0 or more.")
    versions = registry.list_versions(settings, project.name)
    needed = _needed_versions(project.name, settings)
    deleted = []
    for version in versions[: max(0, len(versions) - keep)]:
        if version not in needed:
            _delete_version(project.name, version, settings)
            deleted.append(version)
    kept = {str(version): needed.get(version, "among the newest") for version in versions if version not in deleted}
    return {"model": project.name, "deleted": deleted, "kept": kept}


def _delete_version(model: str, version: int, settings: Settings) -> None:
    """Delete a version; ValueError when an alias names it or a rollback may need it."""
    reason = _needed_versions(model, settings).get(version)
    if reason:
        raise ValueError(f"Version {version} of {model!r} was not deleted: {reason}. Move the alias first.")
    registry.delete_version(settings, model, version)
    log.info("Deleted version %d of %s", version, model)


def _needed_versions(model: str, settings: Settings) -> dict[int, str]:
    """Map each version that must stay to the reason: an alias, either end of the ledger's last move, or a recent
    promotion."""
    known = ledger.entries(model, open_store(settings.store_uri, settings))
    promoted = ledger.promoted_versions(known)[:KEPT_PROMOTIONS]
    needed = dict.fromkeys(promoted, f"it is among the last {KEPT_PROMOTIONS} promoted versions")
    ends = (known[-1].from_version, known[-1].to_version) if known else ()
    needed |= {version: "the ledger's last entry names it" for version in ends if version is not None}
    for alias, version in registry.aliases(settings, model).items():
        needed[version] = f"alias `{alias}` names it"
    return needed
