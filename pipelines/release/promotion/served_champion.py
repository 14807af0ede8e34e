"""Compare the files that MLflow serves for the champion with those that were registered, cheaply each hour.

A full check downloads and hashes every file and verifies the signature. It is repeated once a day, and whenever the
champion or the size of a served file is another than at the last full check, which
checked/MODEL.json in the store describes. MLflow states no more about its files than their sizes.
"""

from datetime import UTC, datetime, timedelta

from alignment.contracts.values import Record, Sha256
from pipelines.release.champion.state import ChampionState
from pipelines.release.champion.versions import read_version
from pipelines.release.promotion import verification
from pipelines.tracking import registry
from pipelines.tracking.errors import TrackingRefused
from pipelines.workspace import Workspace


class _Checked(Record):
    """The last full check that found nothing."""

    version: int
    weights_digest: Sha256
    sizes: dict[str, int]
    at: datetime


def served_problems(workspace: Workspace, state: ChampionState) -> list[str]:
    """Describe the files of the ledger's champion that are not the registered ones; nothing if they are."""
    head = state.entries[-1] if state.entries else None
    if head is None or head.to_version is None or head.weights_digest is None or state.deleted:
        return []
    now = datetime.now(UTC)
    try:
        sizes = registry.served_sizes(workspace.settings, workspace.project.name, head.to_version)
        checked = _Checked(version=head.to_version, weights_digest=head.weights_digest, sizes=sizes, at=now)
        if _is_fresh(checked, workspace):
            return []
        version = read_version(workspace, head.to_version)
        if version is not None:
            verification.check_weights(version, workspace)
    except TrackingRefused:
        raise
    except ValueError as error:
        return [f"{error} Use `plumbline rollback` to leave the champion."]
    workspace.store.write_bytes(_uri(workspace), checked.model_dump_json().encode())
    return []


def _is_fresh(now: _Checked, workspace: Workspace) -> bool:
    """Return True if the last full check was of these files and is not too old."""
    if not workspace.store.exists(_uri(workspace)):
        return False
    last = _Checked.model_validate_json(workspace.store.read_bytes(_uri(workspace)))
    age = now.at - last.at
    same = last.model_copy(update={"at": now.at}) == now
    return same and timedelta(0) <= age < timedelta(hours=workspace.project.reconcile.full_check_hours)


def _uri(workspace: Workspace) -> str:
    return workspace.store.uri("checked", f"{workspace.project.name}.json")
