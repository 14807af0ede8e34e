"""Requests of captions."""

import json
from collections.abc import Callable

import pytest
from words_project import PROJECT

from alignment.contracts.captions import Captioner, CaptionSpec, HybridCaptions, Perturbation
from alignment.contracts.data import DatasetSnapshot
from pipelines.dispatch.requests import (
    caption_request,
)
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder


def with_captions(project: Project, section: str) -> Project:
    """The project with a [captions] section, and a captioner's folder beside it."""
    folder = project.path.parent / "captioner"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["BlipForConditionalGeneration"]}))
    for name in ("model.safetensors", "preprocessor_config.json", "vocab.txt"):
        (folder / name).write_text(name)
    project.path.write_text(f"{PROJECT}[captions]\n{section}\n[placement.caption]\nnum_processes = 3\n")
    return load_project(project.path)


def test_a_caption_job_takes_snapshot_and_captioner_and_answers_among_the_snapshots(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    section = 'variant = "dcpo_h"\ncaptioner = "captioner"\nlevel = "strong"\nseed = 4\nprefix = "a"\nnum_beams = 2'
    project = with_captions(project, section)
    digest, _ = hash_folder(project.path.parent / "captioner")
    request = caption_request(project, settings, make_snapshot())
    spec = CaptionSpec.model_validate(request.spec)
    assert spec.method == HybridCaptions(
        captioner=Captioner(weights_digest=digest, prefix="a", num_beams=2),
        perturbation=Perturbation(level="strong", seed=4),
    )
    assert spec.snapshot == make_snapshot().model_copy(update={"uri": ""})
    assert request.output_uri == f"{settings.store_uri}/snapshots/{spec.digest}"
    assert (request.kind, request.placement.num_processes) == ("caption", 3)
    assert [(i.content_digest, i.manifest) for i in request.inputs] == [("5" * 64, True), (digest, False)]
    assert request.inputs[1].uri == str(project.path.parent / "captioner")


@pytest.mark.parametrize(
    ("section", "kind", "num_inputs"),
    [
        ('variant = "dcpo_c"\ncaptioner = "captioner"', "dcpo_c", 2),
        ('variant = "dcpo_p"\nlevel = "weak"', "dcpo_p", 1),
    ],
)
def test_each_variant_takes_what_it_needs(
    project: Project,
    settings: Settings,
    section: str,
    kind: str,
    num_inputs: int,
    make_snapshot: Callable[..., DatasetSnapshot],
) -> None:
    request = caption_request(with_captions(project, section), settings, make_snapshot())
    assert request.spec["method"]["kind"] == kind
    assert len(request.inputs) == num_inputs


def test_the_same_snapshot_elsewhere_is_captioned_once(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    project = with_captions(project, 'variant = "dcpo_p"\nlevel = "weak"')
    moved = make_snapshot().model_copy(update={"uri": "file:///elsewhere"})
    one, two = (caption_request(project, settings, snapshot) for snapshot in (make_snapshot(), moved))
    assert one.job_id == two.job_id
