"""Requests of the jobs that make pairs without people: draw them to order, label a snapshot's."""

from typing import Any

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.labelling import DrawSpec, LabelSpec, fill_template
from pipelines.contracts.jobs import JobInput, JobRequest
from pipelines.dispatch.requests import base_input, judge_inputs, local_prompts, make_request, prompts_input
from pipelines.project.file import Project
from pipelines.project.sections import DrawSection, SourceSection
from pipelines.records.heldout_prompts import check_not_heldout, heldout_prompts
from pipelines.settings import Settings


def pair_request(project: Project, settings: Settings, stage: str, given: dict[str, Any]) -> JobRequest:
    """The request of stage `label`, {snapshot}, or of `draw_pairs`, {source}."""
    if stage == "label":
        return label_request(project, settings, DatasetSnapshot.model_validate(given["snapshot"]))
    source = next(source for source in project.sources if source.name == given["source"])
    return draw_request(project, settings, source)


def with_drawn_sources(project: Project, settings: Settings) -> Project:
    """The project with the place of every self_generated source's pairs as its uri."""
    sources = tuple(
        source.model_copy(update={"uri": draw_request(project, settings, source).output_uri}) if source.draw else source
        for source in project.sources
    )
    return project.model_copy(update={"sources": sources})


def label_request(project: Project, settings: Settings, snapshot: DatasetSnapshot) -> JobRequest:
    """Label a snapshot's training pairs as the project's [labelling] says; ValueError when it says nothing."""
    section = project.labelling
    if section is None:
        raise ValueError(
            f"{project.path}: there is no [labelling]. Add one, e.g. judges = [NAME] and"
            ' method = {kind = "proxy_vote"}, or leave the pairs to people.'
        )
    judges = judge_inputs(project, project.labellers(), settings)
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
    inputs = (JobInput(content_digest=snapshot.content_digest, uri=snapshot.uri), *weights)
    return make_request(project, settings, spec, inputs=inputs, placement=project.placement.label)


def draw_request(project: Project, settings: Settings, source: SourceSection) -> JobRequest:
    """Draw the pairs of a self_generated source with the base model.

    ValueError when the prompts are missing, or one of them is held out for evaluation, as it stands or in a template.
    """
    assert source.draw is not None, f"source {source.name} is not drawn"
    name = f"{project.name}-{source.name}.txt"
    prompts = prompts_input(source.draw.prompts, name, settings)
    _check_prompts(project, settings, source.draw, prompts, name=name)
    base = base_input(project, settings)
    spec = DrawSpec(
        base_digest=base.content_digest,
        backbone=project.base.backbone,
        prompts_digest=prompts.content_digest,
        source=source.name,
        licence=source.licence,
        **source.draw.model_dump(include={"chosen_template", "rejected_template", "seeds", "sampler"}),
    )
    return make_request(project, settings, spec, inputs=(base, prompts), placement=project.placement.draw_pairs)


def _check_prompts(project: Project, settings: Settings, draw: DrawSection, prompts: JobInput, *, name: str) -> None:
    heldout = heldout_prompts(project, settings)
    for template in dict.fromkeys(("{prompt}", draw.chosen_template, draw.rejected_template)):
        with local_prompts(prompts, name, settings).open(encoding="utf-8", errors="replace") as lines:
            check_not_heldout((fill_template(template, line.strip()) for line in lines), heldout, draw.prompts)
