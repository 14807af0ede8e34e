"""Requests of the jobs that measure: evaluation, A/A, best of N, and judges against people."""

from alignment.contracts.calibration import CalibrationSpec
from alignment.contracts.coverage import CoverageSpec
from alignment.contracts.evaluation import EvalSpec, ModelRef, ModelsSpec, SampleSpec
from alignment.contracts.jobs import SAMPLES_DIR, WEIGHTS_DIR
from pipelines.contracts.jobs import JobInput, JobRequest, SideOutput
from pipelines.contracts.release import CandidateVersion
from pipelines.dispatch.job_kinds import Calibrate, Coverage, Evaluate
from pipelines.dispatch.requests.inputs import base_input, prompts_input, snapshot_input
from pipelines.dispatch.requests.judges import judge_inputs
from pipelines.dispatch.requests.request import make_request
from pipelines.project.file import Project
from pipelines.project.sections import REWARD_SCHEME
from pipelines.records import trained_judges
from pipelines.records.heldout_prompts import check_enough_prompts, evaluation_prompts
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

__all__ = ["aa_request", "calibrate_request", "comparison_request", "coverage_request", "evaluate_request"]


def evaluate_request(workspace: Workspace, job: Evaluate) -> JobRequest:
    """Evaluate a candidate for the gate, see `comparison_request`; ValueError also for too few prompts to judge it."""
    check_enough_prompts(workspace.project, workspace.store)
    return comparison_request(workspace, job)


def comparison_request(workspace: Workspace, job: Evaluate) -> JobRequest:
    """Sample and judge a candidate against the champion and the base; without a champion the base is the incumbent.

    Images that an earlier evaluation published are inputs, the others become side outputs. ValueError when a version
    was made from another base, or no snapshot is named.
    """
    candidate = job.candidate
    if not candidate.snapshot_uri:
        raise ValueError(
            f"{candidate.model} version {candidate.version} has no tag with the address of its snapshot. Train again."
        )
    return _evaluation(
        workspace,
        candidate=candidate,
        champion=job.champion,
        seeds=workspace.project.evaluation.seeds,
        snapshot=JobInput(content_digest=candidate.snapshot_digest, uri=candidate.snapshot_uri),
    )


def aa_request(
    workspace: Workspace, *, champion: CandidateVersion | None, snapshot_uri: str, snapshot_digest: str
) -> JobRequest:
    """Evaluate the champion, or the base, in both roles on twice the seeds; no evaluation draws the second half of
    them.

    Any difference between the halves is noise (see `alignment.statistics.seed_noise`).
    """
    seeds = workspace.project.evaluation.seeds
    others = tuple(range(max(seeds) + 1, max(seeds) + 1 + len(seeds)))
    return _evaluation(
        workspace,
        candidate=champion,
        champion=champion,
        seeds=(*seeds, *others),
        snapshot=JobInput(content_digest=snapshot_digest, uri=snapshot_uri),
    )


def coverage_request(workspace: Workspace, job: Coverage) -> JobRequest:
    """Draw many images of few prompts from candidate, champion and base, as the project's [coverage] describes.

    ValueError when the project has no such section, or a version was made from another base.
    """
    project = workspace.project
    section = project.coverage
    if section is None:
        raise ValueError(
            f"{project.path}: no [coverage]. Add it with judge = NAME, a judge or guard of [evaluation], to measure"
            " the best of several images."
        )
    base, versions = _base_and_versions(workspace, job.candidate, job.champion)
    ((judge, judge_folder),) = judge_inputs(workspace, (project.scorer(section.judge),)).items()
    prompts = _prompts(workspace)
    spec = CoverageSpec(
        candidate=_model_ref(job.candidate, base),
        champion=_model_ref(job.champion, base),
        base_digest=base.content_digest,
        backbone=project.base.backbone,
        prompts_digest=prompts.content_digest,
        num_prompts=section.num_prompts,
        seeds=tuple(range(section.num_samples)),
        sampler=project.evaluation.sampler,
        judge=judge,
        bar=section.bar,
        confidence=project.evaluation.confidence,
    )
    return _compared(workspace, spec, [base, prompts, *judge_folder], versions)


def calibrate_request(workspace: Workspace, job: Calibrate) -> JobRequest:
    """Check the project's judges against the calibration split of a snapshot.

    A judge `reward://NAME` that is not trained yet is left out. ValueError when no judge is left, or the snapshot has
    no pair to check on.
    """
    project = workspace.project
    snapshot = job.snapshot
    if not snapshot.num_pairs["calibration"]:
        raise ValueError(
            f"Snapshot {snapshot.uri} has no calibration pairs. Raise [snapshot] calibration_share, or add more pairs."
        )
    sections = tuple(
        own
        for own in project.evaluation.judges
        if not own.uri.startswith(REWARD_SCHEME)
        or trained_judges.newest(project.name, own.uri.removeprefix(REWARD_SCHEME), workspace.store)
    )
    if not sections:
        raise ValueError(f"No judge of {project.path} is trained yet. Run `plumbline reward {project.path}`.")
    judges = judge_inputs(workspace, sections)
    spec = CalibrationSpec(
        judges=tuple(judges), snapshot_digest=snapshot.content_digest, confidence=project.evaluation.confidence
    )
    weights = [folder for folders in judges.values() for folder in folders]
    return make_request(workspace, spec, inputs=[snapshot_input(snapshot), *weights])


def _evaluation(
    workspace: Workspace,
    *,
    candidate: CandidateVersion | None,
    champion: CandidateVersion | None,
    seeds: tuple[int, ...],
    snapshot: JobInput,
) -> JobRequest:
    """Make the request of an evaluation; a role without a version uses the base."""
    project = workspace.project
    base, versions = _base_and_versions(workspace, candidate, champion)
    judges, guards = (
        judge_inputs(workspace, sections) for sections in (project.evaluation.judges, project.evaluation.guards)
    )
    prompts = _prompts(workspace)
    spec = EvalSpec(
        candidate=_model_ref(candidate, base),
        champion=_model_ref(champion, base),
        base_digest=base.content_digest,
        backbone=project.base.backbone,
        prompts_digest=prompts.content_digest,
        seeds=seeds,
        judges=tuple(judges),
        guards=tuple(guards),
        snapshot_digest=snapshot.content_digest,
        **project.evaluation.model_dump(include={"sampler", "tie_thresholds", "confidence"}),
    )
    inputs = [base, prompts, snapshot]
    inputs += [weights for folders in (judges, guards) for own in folders.values() for weights in own]
    return _compared(workspace, spec, inputs, versions)


def _prompts(workspace: Workspace) -> JobInput:
    """Return the evaluation's prompts file; a line that the job would refuse hours later raises ValueError here."""
    project = workspace.project
    prompts = prompts_input(project.evaluation.prompts, f"{project.name}.tsv", workspace.settings)
    evaluation_prompts(workspace.project, workspace.store)
    return prompts


def _compared(
    workspace: Workspace, spec: ModelsSpec, inputs: list[JobInput], versions: list[CandidateVersion]
) -> JobRequest:
    """Make the request of a job about three models; images in the store are inputs, the others side outputs."""
    found, missing = _samples([spec.sample_spec(model) for model in spec.models().values()], workspace.store)
    return make_request(
        workspace,
        spec,
        inputs=[*inputs, *(_weights_input(version) for version in versions), *found],
        side_outputs=missing,
    )


def _check_base(version: CandidateVersion, base: JobInput, project: Project) -> None:
    if version.base_digest != base.content_digest:
        raise ValueError(
            f"{version.model} version {version.version} was trained on base {version.base_digest}, but"
            f" {project.base.uri} is {base.content_digest}. Restore that base, or train a candidate on the new one."
        )


def _base_and_versions(
    workspace: Workspace, candidate: CandidateVersion | None, champion: CandidateVersion | None
) -> tuple[JobInput, list[CandidateVersion]]:
    """Return the base and the versions that are compared; ValueError when one was made from another base."""
    base = base_input(workspace)
    versions = [version for version in (candidate, champion) if version is not None]
    for version in versions:
        _check_base(version, base, workspace.project)
    return base, versions


def _model_ref(version: CandidateVersion | None, base: JobInput) -> ModelRef:
    if version is None:
        return ModelRef(kind="base", weights_digest=base.content_digest)
    return ModelRef(kind=version.kind, weights_digest=version.weights_digest)


def _weights_input(version: CandidateVersion) -> JobInput:
    return JobInput(content_digest=version.weights_digest, uri=version.weights_uri, subfolder=WEIGHTS_DIR)


def _samples(specs: list[SampleSpec], store: Store) -> tuple[list[JobInput], list[SideOutput]]:
    """Return the images of each distinct model: found in the store, or still to be drawn and published there."""
    found, missing = [], []
    for digest in sorted({spec.digest for spec in specs}):
        uri = store.uri(Evaluate.folder, SAMPLES_DIR, digest)
        manifest = store.read_manifest(uri)
        if manifest is not None:
            found.append(JobInput(content_digest=manifest.content_digest, uri=uri, alias=digest))
        else:
            missing.append(SideOutput(path=f"{SAMPLES_DIR}/{digest}", uri=uri))
    return found, missing
