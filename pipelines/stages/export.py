"""Export a version's weights in a format that other programs read, and push them to a hub. JSON out."""

import tempfile
from pathlib import Path

from alignment.contracts.export import ExportRequest, check_format
from pipelines.contracts.release import CandidateVersion
from pipelines.stages.values import Json
from pipelines.workspace import Workspace, open_workspace

CARD_FILE = "README.md"
"""Name of the model card in a repository of the hub."""


def export(path: str, *, version: int | None, format: str, out: str = "", push: str = "") -> Json:
    """Write a version's weights and its model card to a folder, and push the folder to a hub repository if `push` names
    one.

    `version` defaults to the champion and `out` to NAME-vN-FORMAT. The folder is written completely or not at all, and
    before the push. ValueError for an unknown format or version, a folder with content, damaged weights, or a push
    without a token; RuntimeError when the conversion or the push failed.
    """
    workspace = open_workspace(path)
    candidate = _find(workspace, version)
    check_format(format, candidate.kind)
    name = f"{candidate.model}-v{candidate.version}"
    folder = Path(out or f"{name}-{format}").absolute()
    _check_folder(folder)
    repository = _repository(push, workspace) if push else ""
    files = _write(workspace, candidate, folder, format=format, repository=repository)
    answer = {"version": candidate.version, "format": format, "folder": str(folder), "files": files}
    answer["weights_digest"] = candidate.weights_digest
    return {**answer, "commit": _push(folder, repository, workspace)} if repository else answer


def _find(workspace: Workspace, version: int | None) -> CandidateVersion:
    """Read the version; ValueError when it does not exist."""
    from pipelines.release.champion import versions
    from pipelines.tracking import registry

    found = versions.read_version(workspace, version or "champion")
    if found is None:
        there = ", ".join(map(str, registry.list_versions(workspace.settings, workspace.project.name)))
        lacks = f"version {version}" if version else "champion: the base model is in place"
        hint = f"Give --version with one of these: {there}." if there else "Train one first."
        raise ValueError(f"Model {workspace.project.name!r} has no {lacks}. {hint}")
    return found


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder. Give another --out, or remove it.")


def _repository(push: str, workspace: Workspace) -> str:
    from pipelines.dispatch import hub

    return hub.check_push(push, workspace.settings)


def _write(
    workspace: Workspace, candidate: CandidateVersion, folder: Path, *, format: str, repository: str
) -> list[str]:
    """Fetch and convert the weights, write the card, and rename the finished draft. Returns the names of the files."""
    from pipelines.dispatch import conversions
    from pipelines.release.champion import versions
    from pipelines.release.gate import decision_log
    from pipelines.release.pages import write

    request = ExportRequest(
        format=format,  # type: ignore[arg-type] # checked by check_format
        kind=candidate.kind,
        family=workspace.project.base.backbone.name,
        name=f"{candidate.model}-v{candidate.version}",
    )
    existing = next(parent for parent in folder.parents if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=".export.", dir=existing) as scratch:
        draft = Path(scratch) / "draft"
        weights_dir = versions.fetch_weights(
            candidate.weights_uri, candidate.weights_digest, workspace.store, Path(scratch)
        )
        made = conversions.run_conversion(
            "alignment.jobs.export_weights",
            request,
            {"weights": str(weights_dir), "out": str(draft)},
            what=f"The export of version {candidate.version}",
        )
        decision = decision_log.last_decision_about(candidate.version, workspace)
        card = write.export_card(
            workspace, candidate, decision, format=format, files=tuple(made["files"]), repository=repository
        )
        (draft / CARD_FILE).write_text(card, encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(folder)
    return sorted([CARD_FILE, *made["files"]])


def _push(folder: Path, repository: str, workspace: Workspace) -> str:
    from pipelines.dispatch import hub

    return hub.push(folder, repository, workspace.settings, message=f"Upload {folder.name}")
