"""Requests of the jobs that make, label or caption pairs."""

from alignment.contracts.captions import (
    Captioner,
    CaptionMethod,
    CaptionSpec,
    GeneratedCaptions,
    HybridCaptions,
    Perturbation,
    PerturbedPrompts,
)
from alignment.contracts.labelling import DrawSpec, LabelSpec, fill_template
from alignment.labelling.captioner_files import check_captioner_files
from pipelines.contracts.jobs import JobInput, JobRequest
from pipelines.dispatch.job_kinds import Caption, DrawPairs, Label
from pipelines.dispatch.requests.inputs import base_input, local_prompts, model_input, prompts_input, snapshot_input
from pipelines.dispatch.requests.judges import judge_inputs
from pipelines.dispatch.requests.request import make_request
from pipelines.project.captions import CaptionsSection
from pipelines.project.file import Project
from pipelines.project.sections import DrawSection
from pipelines.records.heldout_prompts import check_not_heldout, heldout_prompts
from pipelines.workspace import Workspace

__all__ = ["caption_request", "draw_request", "label_request", "with_drawn_sources"]


def with_drawn_sources(workspace: Workspace) -> Project:
    """Return the project with the address of every self_generated source's pairs as its uri."""
    project = workspace.project
    sources = tuple(
        source.model_copy(update={"uri": DrawPairs(source=source).request(workspace).output_uri})
        if source.draw
        else source
        for source in project.sources
    )
    return project.model_copy(update={"sources": sources})


def label_request(workspace: Workspace, job: Label) -> JobRequest:
    """Label a snapshot's training pairs as the project's [labelling] describes; ValueError when it has none."""
    project = workspace.project
    section, snapshot = project.labelling, job.snapshot
    if section is None:
        raise ValueError(
            f"{project.path}: no [labelling]. Add one, e.g. judges = [NAME] and"
            ' method = {kind = "proxy_vote"}, or use human labels only.'
        )
    judges = judge_inputs(workspace, project.labellers())
    relabelled, human = project.labelled_sources()
    spec = LabelSpec(
        snapshot=snapshot.model_copy(update={"uri": ""}),
        judges=tuple(judges),
        method=section.method,
        relabelled_sources=relabelled,
        human_sources=human,
        confidence=project.evaluation.confidence,
    )
    weights = [folder for folders in judges.values() for folder in folders]
    return make_request(workspace, spec, inputs=[snapshot_input(snapshot), *weights])


def draw_request(workspace: Workspace, job: DrawPairs) -> JobRequest:
    """Draw the pairs of a self_generated source with the base model.

    ValueError when the prompts are missing, or one of them is held out for evaluation, unchanged or in a template.
    """
    project = workspace.project
    source = job.source
    assert source.draw is not None, f"source {source.name} is not drawn"
    name = f"{project.name}-{source.name}.txt"
    prompts = prompts_input(source.draw.prompts, name, workspace.settings)
    _check_prompts(workspace, source.draw, prompts, name=name)
    base = base_input(workspace)
    spec = DrawSpec(
        base_digest=base.content_digest,
        backbone=project.base.backbone,
        prompts_digest=prompts.content_digest,
        source=source.name,
        licence=source.licence,
        **source.draw.model_dump(include={"chosen_template", "rejected_template", "seeds", "sampler"}),
    )
    return make_request(workspace, spec, inputs=[base, prompts])


def caption_request(workspace: Workspace, job: Caption) -> JobRequest:
    """Caption a snapshot's images as [captions] describes; the result is another DatasetSnapshot.

    ValueError when the project has no [captions], or its captioner is missing or incomplete.
    """
    section, snapshot = workspace.project.caption_section(), job.snapshot
    inputs = [snapshot_input(snapshot)]
    captioner = None
    if section.captioner is not None:
        inputs.append(model_input(section.captioner, check_captioner_files, workspace.settings))
        drawing = section.model_dump(include={"prefix", "num_beams", "max_new_tokens"})
        captioner = Captioner(weights_digest=inputs[-1].content_digest, **drawing)
    spec = CaptionSpec(snapshot=snapshot.model_copy(update={"uri": ""}), method=_caption_method(section, captioner))
    return make_request(workspace, spec, inputs=inputs)


def _check_prompts(workspace: Workspace, draw: DrawSection, prompts: JobInput, *, name: str) -> None:
    heldout = heldout_prompts(workspace.project, workspace.store)
    for template in dict.fromkeys(("{prompt}", draw.chosen_template, draw.rejected_template)):
        with local_prompts(prompts, name, workspace.settings).open(encoding="utf-8", errors="replace") as lines:
            check_not_heldout((fill_template(template, line.strip()) for line in lines), heldout, draw.prompts)


def _caption_method(section: CaptionsSection, captioner: Captioner | None) -> CaptionMethod:
    perturbation = Perturbation(level=section.level, seed=section.seed) if section.level is not None else None
    if captioner is None:
        assert perturbation is not None, "the section was validated"
        return PerturbedPrompts(perturbation=perturbation)
    if perturbation is None:
        return GeneratedCaptions(captioner=captioner)
    return HybridCaptions(captioner=captioner, perturbation=perturbation)
