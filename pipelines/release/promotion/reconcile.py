"""Do alias, ledger and tags tell one story? Says so on a schedule, and puts right what the policy lets it.

A move that was cut short is finished. An alias that somebody moved by hand, or a tag of the champion that somebody
changed, is an alarm, or is put back with a note in the ledger. What cannot be put right by what is still known (a
changed or a lost ledger, a deleted champion, other weights under a version, files that MLflow has no longer) is an
alarm under every policy.
"""

import logging

from pipelines.contracts.release import Reconciliation
from pipelines.project.file import Project
from pipelines.release.champion import ledger
from pipelines.release.champion.state import Standing, previous_champion, read_standing
from pipelines.release.promotion import promote as promotion
from pipelines.release.promotion.rollback import restore as put_back
from pipelines.tracking import registry
from pipelines.tracking.errors import TrackingRefused
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)


def reconcile(workspace: Workspace, actor: str, *, restore: bool | None = None) -> Reconciliation:
    """Compare, and act by the project's policy; `restore` overrules it. Never raises for what it finds wrong.

    TrackingUnavailable when MLflow does not answer, TrackingRefused when it lets this user not look: then nothing is
    known, which is no alarm about the champion.
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
            message=f"The champion of {project.name!r} cannot be told: {error}",
        )


def _wants_restore(project: Project, restore: bool | None) -> bool:
    return project.reconcile.on_mismatch == "restore" if restore is None else restore


def _reconcile(workspace: Workspace, actor: str, restore: bool) -> Reconciliation:
    project, settings = workspace.project, workspace.settings
    standing = read_standing(project.name, settings)
    if standing.unfinished:
        entry = promotion.settle(workspace)
        after = read_standing(project.name, settings)
        message = f"finished ledger entry {entry.sequence}, a move that was cut short: {_names(after)}"
        return _answer(project, after, "finished", (), message)
    if standing.cut_off:
        return _answer(project, standing, "alarm", (standing.problem,), standing.problem)
    changed = [*_changed_tags(workspace, standing), *_changed_alias(workspace, standing)]
    other = [*_other_weights(workspace, standing), *files_gone(workspace, standing)]
    problems = tuple(filter(None, (standing.problem, *changed, *other)))
    if not problems:
        return _answer(project, standing, "agrees", (), f"alias, ledger and tags agree: {_names(standing)}")
    mendable = (standing.by_hand or not standing.problem) and not other
    if not restore or not mendable:
        return _answer(project, standing, "alarm", problems, " ".join(problems))
    reason = f"reconcile found the alias at {ledger.describe(standing.champion)}" if standing.by_hand else changed[0]
    entry = put_back(workspace, actor, reason)
    after = read_standing(project.name, settings)
    log.warning("Restored the champion of %s: %s", project.name, reason)
    return _answer(project, after, "restored", problems, f"put back by ledger entry {entry.sequence}: {_names(after)}")


def _changed_tags(workspace: Workspace, standing: Standing) -> list[str]:
    """Tags of the ledger's champion that do not say what the ledger says."""
    project = workspace.project
    if not standing.entries or standing.entries[-1].to_version is None or standing.deleted:
        return []
    version = standing.entries[-1].to_version
    tags = registry.version_tags(workspace.settings, project.name, version) or {}
    return [
        f"Tag {name!r} of version {version} of {project.name!r} is {tags.get(name)!r}, the ledger says {expected!r}:"
        " someone changed it by hand."
        for name, expected in promotion.champion_tags(standing.entries).items()
        if tags.get(name) != expected
    ]


def _changed_alias(workspace: Workspace, standing: Standing) -> list[str]:
    """`previous_champion` must name the version that a rollback would go to."""
    project = workspace.project
    if not standing.entries:
        return []
    found = registry.aliases(workspace.settings, project.name).get("previous_champion")
    expected = previous_champion(standing.entries, workspace.settings)
    if found == expected:
        return []
    means = f"names version {found}" if found is not None else "is not set"
    goes = f"version {expected}" if expected is not None else "no version"
    return [
        f"Alias `previous_champion` of {project.name!r} {means}, by the ledger a rollback goes back to {goes}: someone"
        " changed it by hand, or deleted a version. `plumbline reconcile --restore` puts it right."
    ]


def files_gone(workspace: Workspace, standing: Standing) -> list[str]:
    """The champion, and the version that a rollback would go to, must still have the files that they serve, and keep
    them through the next `mlflow gc`."""
    known = standing.entries
    if not known or standing.deleted:
        return []
    rests = {
        known[-1].to_version: "It is the champion: `plumbline rollback` leaves it.",
        previous_champion(
            known, workspace.settings
        ): "A rollback would go there; without its files only `plumbline rollback"
        " --to-version N` or `--to-base` has somewhere to go.",
    }
    missing = {
        v: registry.missing_files(workspace.settings, workspace.project.name, v, soon=True)
        for v in rests
        if v is not None
    }
    return [f"{missing[version]} {rests[version]}" for version in missing if missing[version]]


def _other_weights(workspace: Workspace, standing: Standing) -> list[str]:
    """The version must still say that it holds the weights that were moved to."""
    project = workspace.project
    head = standing.entries[-1] if standing.entries else None
    if head is None or head.to_version is None or standing.deleted:
        return []
    tags = registry.version_tags(workspace.settings, project.name, head.to_version) or {}
    found = tags.get(registry.WEIGHTS_TAG)
    if found == head.weights_digest:
        return []
    return [
        f"Version {head.to_version} of {project.name!r} says that its weights have digest {found}, the ledger says"
        f" {head.weights_digest}. `plumbline rollback` leaves it; then find out who changed it."
    ]


def _answer(
    project: Project, standing: Standing, state: str, problems: tuple[str, ...], message: str
) -> Reconciliation:
    return Reconciliation(
        model=project.name,
        state=state,  # type: ignore[arg-type]
        champion=standing.champion,
        expected=standing.entries[-1].to_version if standing.entries else None,
        ledger_entries=len(standing.entries),
        problems=problems,
        message=message,
    )


def _names(standing: Standing) -> str:
    return f"the champion is {ledger.describe(standing.champion)}"
