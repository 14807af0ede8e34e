"""Compare alias, ledger and tags, on a schedule or on request, and repair what the policy allows.

An interrupted move is completed. An alias or a champion tag that was changed by hand raises an alarm, or is restored
with an entry in the ledger; an alias at the version that the last rollback left is always restored. Faults that cannot
be repaired from the records (a changed or lost ledger, a deleted champion, other weights under a version, files missing
or changed in MLflow) raise an alarm under every policy.
"""

import logging

from pipelines.contracts.release import Reconciliation
from pipelines.project.file import Project
from pipelines.release.awaiting import overdue
from pipelines.release.champion import ledger
from pipelines.release.champion.state import ChampionState, previous_champion, read_state
from pipelines.release.promotion import promote as promotion
from pipelines.release.promotion.rollback import restore as put_back
from pipelines.release.promotion.served_champion import served_problems
from pipelines.tracking import registry
from pipelines.tracking.errors import TrackingRefused
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)


def reconcile(workspace: Workspace, actor: str, *, restore: bool | None = None) -> Reconciliation:
    """Compare, and act by the project's policy; `restore` overrides it. A mismatch is returned, never raised.

    TrackingUnavailable when MLflow does not answer, TrackingRefused when it denies this user access: then the state is
    unknown, which is not an alarm about the champion.
    """
    project = workspace.project
    try:
        return _reconcile(workspace, actor, _wants_restore(project, restore))
    except TrackingRefused:
        raise
    except ValueError as error:
        return Reconciliation(
            model=project.name,
            state="alarm",
            champion=None,
            expected=None,
            ledger_entries=0,
            problems=(str(error),),
            message=f"The champion of {project.name!r} cannot be determined: {error}",
        )


def _wants_restore(project: Project, restore: bool | None) -> bool:
    return project.reconcile.on_mismatch == "restore" if restore is None else restore


def _reconcile(workspace: Workspace, actor: str, restore: bool) -> Reconciliation:
    project, settings = workspace.project, workspace.settings
    state = read_state(project.name, settings)
    if state.unfinished:
        entry = promotion.settle(workspace)
        after = read_state(project.name, settings)
        message = f"completed ledger entry {entry.sequence}, an interrupted move: {_names(after)}"
        return _result(project, after, "finished", (), message)
    if state.cut_off:
        return _result(project, state, "alarm", (state.problem,), state.problem)
    changed = [*_changed_tags(workspace, state), *_changed_alias(workspace, state)]
    other = [*_other_weights(workspace, state), *files_gone(workspace, state)]
    other = other or served_problems(workspace, state)
    problems = tuple(filter(None, (state.problem, *changed, *other)))
    late = "" if problems else overdue(workspace)
    if late:
        return _result(project, state, "alarm", (late,), late)
    if not problems:
        return _result(project, state, "agrees", (), f"alias, ledger and tags agree: {_names(state)}")
    repairable = (state.by_hand or not state.problem) and not other
    if not (restore or state.rolled_back) or not repairable:
        return _result(project, state, "alarm", problems, " ".join(problems))
    reason = f"reconcile found the alias at {ledger.describe(state.champion)}" if state.by_hand else changed[0]
    entry = put_back(workspace, actor, reason)
    after = read_state(project.name, settings)
    log.warning("Restored the champion of %s: %s", project.name, reason)
    return _result(project, after, "restored", problems, f"restored by ledger entry {entry.sequence}: {_names(after)}")


def _changed_tags(workspace: Workspace, state: ChampionState) -> list[str]:
    """List the tags of the ledger's champion that differ from the ledger."""
    project = workspace.project
    if not state.entries or state.entries[-1].to_version is None or state.deleted:
        return []
    version = state.entries[-1].to_version
    tags = registry.version_tags(workspace.settings, project.name, version) or {}
    return [
        f"Tag {name!r} of version {version} of {project.name!r} is {tags.get(name)!r}, but the ledger has {expected!r}:"
        " someone changed it by hand. `plumbline reconcile --restore` restores it."
        for name, expected in promotion.champion_tags(state.entries).items()
        if tags.get(name) != expected
    ]


def _changed_alias(workspace: Workspace, state: ChampionState) -> list[str]:
    """Report `previous_champion` if it does not name the version that a rollback would restore."""
    project = workspace.project
    if not state.entries:
        return []
    found = registry.aliases(workspace.settings, project.name).get("previous_champion")
    expected = previous_champion(state.entries, workspace.settings)
    if found == expected:
        return []
    means = f"names version {found}" if found is not None else "is not set"
    goes = f"version {expected}" if expected is not None else "no version"
    return [
        f"Alias `previous_champion` of {project.name!r} {means}, but by the ledger a rollback restores {goes}: someone"
        " changed it by hand, or deleted a version. `plumbline reconcile --restore` restores the alias."
    ]


def files_gone(workspace: Workspace, state: ChampionState) -> list[str]:
    """Report missing files of the champion and of the version that a rollback would restore, including files that the
    next `mlflow gc` would delete."""
    known = state.entries
    if not known or state.deleted:
        return []
    rests = {
        known[-1].to_version: "It is the champion: use `plumbline rollback` to leave it.",
        previous_champion(
            known, workspace.settings
        ): "A rollback would restore it; without its files, roll back with `plumbline rollback --to-version N` or"
        " `--to-base`.",
    }
    missing = {
        v: registry.missing_files(workspace.settings, workspace.project.name, v, soon=True)
        for v in rests
        if v is not None
    }
    return [f"{missing[version]} {rests[version]}" for version in missing if missing[version]]


def _other_weights(workspace: Workspace, state: ChampionState) -> list[str]:
    """Report the champion if its version no longer names the weights in the ledger."""
    project = workspace.project
    head = state.entries[-1] if state.entries else None
    if head is None or head.to_version is None or state.deleted:
        return []
    tags = registry.version_tags(workspace.settings, project.name, head.to_version) or {}
    found = tags.get(registry.WEIGHTS_TAG)
    if found == head.weights_digest:
        return []
    return [
        f"Version {head.to_version} of {project.name!r} names weights with digest {found}, but the ledger has"
        f" {head.weights_digest}. Use `plumbline rollback` to leave it, then find out who changed it."
    ]


def _result(
    project: Project, found: ChampionState, state: str, problems: tuple[str, ...], message: str
) -> Reconciliation:
    return Reconciliation(
        model=project.name,
        state=state,  # type: ignore[arg-type]
        champion=found.champion,
        expected=found.entries[-1].to_version if found.entries else None,
        ledger_entries=len(found.entries),
        problems=problems,
        message=message,
    )


def _names(state: ChampionState) -> str:
    return f"the champion is {ledger.describe(state.champion)}"
