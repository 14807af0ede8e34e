"""Stages on withdrawn pairs: withdraw, revoke, lineage, purge. They concern every project of the store."""

import logging
import re
from collections.abc import Sequence
from difflib import get_close_matches

from pipelines.contracts.withdrawals import Lineage, PurgePlan, TrainedModel, Withdrawal
from pipelines.host import shell_user
from pipelines.settings import Settings, load_settings
from pipelines.stages.values import Json, to_json
from pipelines.store.storage import Store, open_store
from pipelines.workspace import Workspace, open_workspace

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ANNOTATOR = re.compile(r"[0-9a-f]{32}")


def withdraw(targets: dict[str, str | None], *, reason: str, revoke: bool = False) -> Json:
    """Record the withdrawal of an annotator, annotator_hash, pair, image or source, or with `revoke` its end.

    ValueError when not exactly one is given, a digest is malformed, no shard of the source was ever read, or the
    withdrawal holds already.
    """
    from pipelines.records.withdrawals import record_withdrawal

    settings = load_settings()
    store = open_store(settings.store_uri, settings)
    withdrawal = _withdrawal({name: value for name, value in targets.items() if value}, store, settings)
    if not reason.strip():
        raise ValueError("A withdrawal needs --reason TEXT, which stays in the record.")
    return to_json(record_withdrawal(store, withdrawal, reason=reason, by=shell_user(), is_revoked=revoke))


def list_withdrawals() -> list[Json]:
    """Return every entry of the series of withdrawals, oldest first."""
    from pipelines.records.withdrawals import withdrawal_series

    settings = load_settings()
    entries = withdrawal_series(open_store(settings.store_uri, settings)).entries()
    return [{**to_json(entry), "withdrawal": str(entry.withdrawal)} for entry in entries]


def _withdrawal(targets: dict[str, str], store: Store, settings: Settings) -> Withdrawal:
    if len(targets) != 1:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in targets) or "none"
        raise ValueError(
            f"Give exactly one of --annotator, --annotator-hash, --pair, --image and --source, not {given}."
        )
    ((name, value),) = targets.items()
    if name == "annotator":
        from pipelines.intake.ingestion import annotator_id

        return Withdrawal(kind="annotator", value=annotator_id(value, settings))
    if name == "source":
        return _source(value, store)
    kind, pattern, digits = ("annotator", _ANNOTATOR, 32) if name == "annotator_hash" else (name, _DIGEST, 64)
    if not pattern.fullmatch(value):
        raise ValueError(f"--{name.replace('_', '-')} is {value!r}. It must have {digits} hexadecimal digits.")
    return Withdrawal.model_validate({"kind": kind, "value": value})


def _source(value: str, store: Store) -> Withdrawal:
    """Return the withdrawal of NAME or NAME:SHARD; ValueError when no project ever read it."""
    from pipelines.intake.shard_index import shard_of_entry

    known: dict[str, set[str]] = {}
    for entry in store.list_uris(store.uri("raw/index")):
        known.setdefault(entry.split("/")[-3], set()).add(shard_of_entry(entry))
    name, _, shard = value.partition(":")
    if name not in known:
        raise ValueError(_unknown("source", name, list(known)))
    if shard and shard not in known[name]:
        raise ValueError(_unknown(f"shard of {name}", shard, sorted(known[name])))
    return Withdrawal(kind="source", value=name, shard=shard)


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    if not known:
        return f"No {what} {name!r}: nothing was ingested into this store yet."
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known[:10])}."
    return f"No project of this store has read a {what} {name!r}. {hint}"


def lineage(path: str, *, pair: str = "", snapshot: str = "") -> Json:
    """Return the Lineage of a pair, or of a snapshot named by the beginning of its digest, `last` or `previous`."""
    if bool(pair) == bool(snapshot):
        raise ValueError("Give either --pair ID or --snapshot DIGEST.")
    if pair and not _DIGEST.fullmatch(pair):
        raise ValueError(f"--pair is {pair!r}. It must have 64 hexadecimal digits, as in the tables of pairs.")
    workspace = open_workspace(path)
    return to_json(_lineage_of_pair(pair, workspace) if pair else _lineage_of_snapshot(snapshot, workspace))


def _lineage_of_pair(pair: str, workspace: Workspace) -> Lineage:
    from pipelines.intake import lineage as search
    from pipelines.records.snapshots import snapshot_series

    names, withdrawals = search.names_of_pair(pair, workspace)
    purged, models = search.purged_with(names, workspace), _trained_models(workspace)
    series = snapshot_series(workspace.store, workspace.project.name).entries()
    uris = {entry.snapshot_digest: entry.snapshot_uri for entry in series}
    uris |= {model.snapshot_digest: uri for model, uri in models}
    splits = {digest: search.splits_with(names, uri, workspace) for digest, uri in uris.items()}
    held = {digest for digest, found in splits.items() if found or digest in purged}
    return Lineage(
        project=workspace.project.name,
        pair_id=pair,
        snapshots=tuple(sorted(held)),
        models=tuple(
            model.model_copy(update={"splits": splits[model.snapshot_digest]})
            for model, _ in models
            if model.snapshot_digest in held
        ),
        withdrawals=tuple(sorted(withdrawals)),
    )


def _lineage_of_snapshot(name: str, workspace: Workspace) -> Lineage:
    from pipelines.records.snapshots import find_snapshot, snapshot_series

    project = workspace.project.name
    digest = find_snapshot(snapshot_series(workspace.store, project).entries(), name, project).snapshot_digest
    models = tuple(model for model, _ in _trained_models(workspace) if model.snapshot_digest == digest)
    return Lineage(project=project, snapshots=(digest,), models=models)


def _trained_models(workspace: Workspace) -> list[tuple[TrainedModel, str]]:
    """Return every registered version with a snapshot, and the folder of that snapshot."""
    from pipelines.tracking import registry

    settings, name = workspace.settings, workspace.project.name
    aliases = registry.aliases(settings, name)
    found = []
    for version in registry.list_versions(settings, name):
        tags = registry.version_tags(settings, name, version) or {}
        if digest := tags.get("snapshot.digest"):
            own = tuple(sorted(alias for alias, target in aliases.items() if target == version))
            model = TrainedModel(version=version, aliases=own, snapshot_digest=digest, splits=())
            found.append((model, tags.get("snapshot.uri", "")))
    return found


def plan_purge() -> Json:
    """Return the PurgePlan: every folder of the store that holds a withdrawn pair."""
    from pipelines.intake.purge import plan_purge

    workspace, others = _workspaces()
    return to_json(plan_purge(workspace, [own.project.name for own in others]))


def purge(plan: Json) -> Json:
    """Carry out a PurgePlan; return its PurgeRecord, and the pages that were deleted from MLflow.

    Copies of the folders on this host are deleted too. ValueError when a job that makes one still runs.
    While MLflow is away, its pages stay, with a warning.
    """
    from pipelines.dispatch import job_list
    from pipelines.dispatch.input_cache import InputCache
    from pipelines.intake import purge as purging

    first, workspaces = _workspaces()
    found = PurgePlan.model_validate(plan)
    read = [(item.kind, first.store.read_manifest(item.uri)) for item in found.items]
    manifests = [(kind, manifest) for kind, manifest in read if manifest is not None]
    raw = [manifest.value for kind, manifest in manifests if kind == purging.RAW]
    shards = [(str(value["source"]), str(value["source_file"])) for value in raw]
    job_list.delete_outputs([item.uri for item in found.items], first.settings)
    record = purging.purge(found, workspaces, by=shell_user())
    InputCache(first.settings).discard([manifest.content_digest for _, manifest in manifests])
    pages = _delete_pages(workspaces, list(found.pair_ids), shards) if found.items else []
    return {**to_json(record), "pages": pages}


def _delete_pages(workspaces: Sequence[Workspace], snapshots: list[str], shards: list[tuple[str, str]]) -> list[str]:
    from pipelines.tracking.errors import TrackingUnavailable
    from pipelines.tracking.withdrawn_pages import delete_pages

    deleted = []
    for own in workspaces:
        try:
            deleted += delete_pages(own.settings, own.project.name, snapshots=snapshots, shards=shards)
        except TrackingUnavailable as error:
            log.warning(
                "Pages of %s in MLflow may still show withdrawn pairs: %s. Delete the artifacts data_report and"
                " data_docs of its runs once it answers.",
                own.project.name,
                error,
            )
    return deleted


def _workspaces() -> tuple[Workspace, list[Workspace]]:
    """Return a workspace to search the store with, and one for each project of the projects folder.

    ValueError when a project file is broken, since its shards could not be validated again, or there is none.
    """
    from pipelines.project.file import load_projects

    settings = load_settings()
    projects, problems = load_projects(settings.projects_dir)
    if problems:
        raise ValueError(
            "Repair these project files first, so that their shards can be validated again:\n" + "\n".join(problems)
        )
    if not projects:
        raise ValueError(f"There is no project file in {settings.projects_dir}. Set PLUMBLINE_PROJECTS_DIR.")
    found = [Workspace(project, settings) for project in projects]
    return found[0], found
