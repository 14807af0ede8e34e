"""Scorers of the project as they appear in specifications, and the weights that they need."""

import hashlib
from collections.abc import Sequence

from alignment.contracts.judges import Judge
from alignment.contracts.values import canonical_json, folder_digest
from pipelines.contracts.jobs import JobInput
from pipelines.dispatch.cached_digests import file_fingerprints, weights_identity
from pipelines.dispatch.encoders import shared_encoders
from pipelines.dispatch.inputs import hash_cache_dir
from pipelines.dispatch.model_folders import check_scorer_folder, local_folder
from pipelines.project.sections import REWARD_SCHEME, JudgeSection
from pipelines.records import trained_judges
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

__all__ = ["judge_inputs", "judge_of"]

JUDGE_FOLDER = "judge"


def judge_of(workspace: Workspace, section: JudgeSection) -> Judge:
    """Return a scorer of the project as it appears in specs, its weights hashed; ValueError when its folder is
    incomplete.
    """
    (judge,) = judge_inputs(workspace, (section,))
    return judge


def judge_inputs(workspace: Workspace, sections: tuple[JudgeSection, ...]) -> dict[Judge, tuple[JobInput, ...]]:
    """Return each judge as it appears in the spec, with the folder of its weights; none for a judge without weights.

    Judges whose weights show that they share an encoder get one encoder family, unless the project states another.
    """
    found = [_judge_input(workspace, section) for section in sections]
    local = [(section, local_folder(section.uri, workspace.settings)) for section in sections if _is_folder(section)]
    shared = shared_encoders({section.name: (folder, section.scorer) for section, folder in local})
    families = {section.name: section.encoder_family or shared.get(section.name) for section in sections}
    return {judge.model_copy(update={"encoder_family": families[judge.name]}): weights for judge, weights in found}


def _is_folder(section: JudgeSection) -> bool:
    """Return True for a scorer whose weights are a user's folder."""
    return section.scorer.has_weights and not section.uri.startswith(REWARD_SCHEME)


def _judge_input(workspace: Workspace, section: JudgeSection) -> tuple[Judge, tuple[JobInput, ...]]:
    """Return a user's folder, or the newest judge that the project has trained under a name, fixed by its digest.

    Its identity is that of its weights; a scorer without weights is identified by its settings.
    """
    settings = workspace.settings
    if not section.scorer.has_weights:
        settings_sha256 = hashlib.sha256(canonical_json(section.scorer.model_dump(mode="json")).encode()).hexdigest()
        return _judge(workspace, section, folder_digest({}), settings_sha256), ()
    if section.uri.startswith(REWARD_SCHEME):
        found = trained_judges.find(section.uri, workspace.project.name, workspace.store)
        weights = JobInput(content_digest=found.judge_digest, uri=found.uri, subfolder=JUDGE_FOLDER)
        identity = _stored_identity(found.uri, settings)
        judge = _judge(workspace, section, found.judge_digest, identity, trained_on=found.trained_on)
        return judge.model_copy(update={"keeps_split": True}), (weights,)
    folder = local_folder(section.uri, settings)
    check_scorer_folder(folder, section.scorer)
    files = file_fingerprints(folder, hash_cache_dir(settings))
    weights = JobInput(content_digest=folder_digest(files), uri=section.uri, manifest=False)
    return _judge(workspace, section, weights.content_digest, weights_identity(files)), (weights,)


def _stored_identity(uri: str, settings: Settings) -> str | None:
    """Return the identity of the judge in a reward's published folder, from the hashes in its manifest."""
    manifest = open_store(uri, settings).read_manifest(uri)
    files = manifest.files if manifest else {}
    inside = f"{JUDGE_FOLDER}/"
    return weights_identity({path: entry.sha256 for path, entry in files.items() if path.startswith(inside)})


def _judge(
    workspace: Workspace, section: JudgeSection, digest: str, identity: str | None, *, trained_on: Sequence[str] = ()
) -> Judge:
    """Make a judge. Its training sources are those that are stated and recorded, and the project's sources of the same
    data sets.
    """
    known = {*section.trained_on, *trained_on}
    all_known = {*known, *section.scorer.trained_on}
    behind = workspace.project.sources_behind(all_known) - all_known
    sources = tuple(sorted({*known, *behind})) if trained_on or behind else section.trained_on
    return Judge(name=section.name, scorer=section.scorer, weights_digest=digest, identity=identity, trained_on=sources)
