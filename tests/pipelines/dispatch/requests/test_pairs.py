"""Requests of drawing, labelling and captioning, from the project file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.contracts.captions import Captioner, CaptionSpec, HybridCaptions, Perturbation
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.labelling import DrawSpec, LabelSpec
from pipelines.dispatch.job_kinds import Caption, DrawPairs, Label
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.workspace import Workspace

ORIGINAL = Path(__file__).with_name("words.toml")
PROJECT = """
name = "words"
[base]
uri = "base"
licence = "Apache-2.0"
backbone = { name = "stable_diffusion", resolution = 64 }
[[sources]]
name = "pairs"
kind = "pick_a_pic"
uri = "pairs"
licence = "CC0-1.0"
[[sources]]
name = "pixel"
kind = "self_generated"
licence = "CC-BY-4.0"
[sources.draw]
prompts = "few.txt"
chosen_template = "{prompt}, in pixel art"
seeds = [3, 4]
sampler = { steps = 5, guidance_scale = 2.0 }
[[train]]
recipe = "diffusion_dpo_shapes"
[evaluation]
prompts = "prompts.tsv"
seeds = [0]
sampler = { steps = 4 }
[[evaluation.judges]]
name = "taste"
uri = "judge"
scorer = { kind = "clip_preference" }
trained_on = ["panel"]
[labelling]
judges = ["taste", "helper"]
method = { kind = "label_model", human_labels = 100 }
[[labelling.scorers]]
name = "helper"
uri = "helper"
scorer = { kind = "clip_score" }
[gate]
required_judges = 1
"""


@pytest.fixture
def write_project(tmp_path: Path) -> Callable[..., Project]:
    """The project, with pieces of its file replaced."""

    def write(*edits: tuple[str, str], prompts: str = "a cat\na dog\n") -> Project:
        text = PROJECT
        for old, new in edits:
            assert text.count(old) == 1
            text = text.replace(old, new)
        files = {
            "words.toml": text,
            "few.txt": prompts,
            "prompts.tsv": "prompt\tcategory\na circle\tshape\na hat, in pixel art\tstyle\n",
            "base/model_index.json": '{"unet": ["diffusers", "UNet2DConditionModel"]}',
        }
        for folder in ("base/unet", "judge", "helper"):
            files |= {f"{folder}/config.json": folder, f"{folder}/model.safetensors": folder}
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return load_project(tmp_path / "words.toml")

    return write


@pytest.fixture
def snapshot_at(make_snapshot: Callable[..., DatasetSnapshot]) -> Callable[[str], DatasetSnapshot]:
    """Return a snapshot of two sources, stored at the given URI."""
    return lambda uri: make_snapshot(uri=uri, sources=("pairs", "pixel"))


def test_a_labelling_names_judges_sources_and_the_snapshot(
    write_project: Callable[..., Project], settings: Settings, snapshot_at: Callable[[str], DatasetSnapshot]
) -> None:
    request = Label(snapshot=snapshot_at("file:///here")).request(Workspace(write_project(), settings))
    spec = LabelSpec.model_validate(request.spec)
    assert [judge.name for judge in spec.judges] == ["taste", "helper"]
    assert "panel" in spec.training_sources
    assert (spec.relabelled_sources, spec.human_sources) == (("pairs",), ("pairs",))
    assert [item.content_digest for item in request.inputs] == ["5" * 64, *(j.weights_digest for j in spec.judges)]
    assert request.kind == "label"
    assert request.output_uri == f"{settings.store_uri}/snapshots/{spec.digest}"
    elsewhere = Label(snapshot=snapshot_at("s3://there/s")).request(Workspace(write_project(), settings))
    assert (elsewhere.spec_digest, elsewhere.inputs[0].uri) == (request.spec_digest, "s3://there/s")


def test_a_proxy_vote_uses_no_human_labels(
    write_project: Callable[..., Project], settings: Settings, snapshot_at: Callable[[str], DatasetSnapshot]
) -> None:
    project = write_project(
        ('judges = ["taste", "helper"]', 'judges = ["taste"]'),
        ('kind = "label_model", human_labels = 100', 'kind = "proxy_vote"'),
    )
    spec = LabelSpec.model_validate(Label(snapshot=snapshot_at("x")).request(Workspace(project, settings)).spec)
    assert spec.human_sources == ()
    assert spec.training_sources == ("panel", f"scorer {spec.judges[0].identity}", "taste")


def test_without_a_section_nothing_is_labelled(
    write_project: Callable[..., Project], settings: Settings, snapshot_at: Callable[[str], DatasetSnapshot]
) -> None:
    project = write_project().model_copy(update={"labelling": None})
    with pytest.raises(ValueError, match=r"no \[labelling\]"):
        Label(snapshot=snapshot_at("x")).request(Workspace(project, settings))


def test_a_drawing_names_base_prompts_templates_and_licence(
    write_project: Callable[..., Project], settings: Settings, tmp_path: Path
) -> None:
    project = write_project()
    request = DrawPairs(source=project.sources[1]).request(Workspace(project, settings))
    spec = DrawSpec.model_validate(request.spec)
    assert spec.prompts_digest == sha256_file(tmp_path / "few.txt")
    assert (spec.chosen_template, spec.rejected_template) == ("{prompt}, in pixel art", "{prompt}")
    assert (spec.seeds, spec.sampler.steps, spec.source, spec.licence) == ((3, 4), 5, "pixel", "CC-BY-4.0")
    assert [item.content_digest for item in request.inputs] == [spec.base_digest, spec.prompts_digest]
    assert request.output_uri == f"{settings.store_uri}/drawn/{spec.digest}"


@pytest.mark.parametrize("prompts", ["a cat\nA Circle!\n", "a cat\na hat\n"])
def test_held_out_prompts_are_not_drawn_even_through_a_template(
    write_project: Callable[..., Project], settings: Settings, prompts: str
) -> None:
    project = write_project(prompts=prompts)
    with pytest.raises(ValueError, match=r"holds 1 prompts of the evaluation \(lines 2\)"):
        DrawPairs(source=project.sources[1]).request(Workspace(project, settings))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('["taste", "helper"]', '["taste", "helpr"]', "Unknown judge 'helpr'. Did you mean 'helper'?"),
        ('judges = ["taste", "helper"]', 'judges = ["taste"]', "needs at least 2 labelers to compare, but 1 are named"),
        ("{prompt}, in pixel art", "pixel art", "does not contain {prompt}"),
        ("human_labels = 100 }", 'human_labels = 100 }\nhuman_sources = ["pixel"]', "Unknown source of labels 'pixel'"),
        ('"label_model", human_labels = 100', '"proxy_vote"', "A proxy vote needs 1 judge, but 2 are named"),
    ],
)
def test_an_invalid_section_is_refused_when_the_project_is_read(
    write_project: Callable[..., Project], old: str, new: str, says: str
) -> None:
    with pytest.raises(ValueError) as refused:
        write_project((old, new))
    assert says in str(refused.value)


def with_captions(project: Project, section: str) -> Project:
    """The project with a [captions] section, and a captioner's folder beside it."""
    folder = project.path.parent / "captioner"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["BlipForConditionalGeneration"]}))
    for name in ("model.safetensors", "preprocessor_config.json", "vocab.txt"):
        (folder / name).write_text(name)
    project.path.write_text(f"{ORIGINAL.read_text()}[captions]\n{section}\n[placement.caption]\nnum_processes = 3\n")
    return load_project(project.path)


def test_a_caption_job_takes_snapshot_and_captioner_and_publishes_a_snapshot(
    project: Project, settings: Settings, snapshot: DatasetSnapshot
) -> None:
    section = 'variant = "dcpo_h"\ncaptioner = "captioner"\nlevel = "strong"\nseed = 4\nprefix = "a"\nnum_beams = 2'
    project = with_captions(project, section)
    digest, _ = hash_folder(project.path.parent / "captioner")
    request = Caption(snapshot=snapshot).request(Workspace(project, settings))
    spec = CaptionSpec.model_validate(request.spec)
    assert spec.method == HybridCaptions(
        captioner=Captioner(weights_digest=digest, prefix="a", num_beams=2),
        perturbation=Perturbation(level="strong", seed=4),
    )
    assert spec.snapshot == snapshot.model_copy(update={"uri": ""})
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
    project: Project, settings: Settings, section: str, kind: str, num_inputs: int, snapshot: DatasetSnapshot
) -> None:
    request = Caption(snapshot=snapshot).request(Workspace(with_captions(project, section), settings))
    assert request.spec["method"]["kind"] == kind
    assert len(request.inputs) == num_inputs


def test_the_same_snapshot_elsewhere_is_captioned_once(
    project: Project, settings: Settings, snapshot: DatasetSnapshot
) -> None:
    project = with_captions(project, 'variant = "dcpo_p"\nlevel = "weak"')
    moved = snapshot.model_copy(update={"uri": "file:///elsewhere"})
    one, two = (Caption(snapshot=data).request(Workspace(project, settings)) for data in (snapshot, moved))
    assert one.job_id == two.job_id
