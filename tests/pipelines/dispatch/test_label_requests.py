"""What a labelling and a drawing are asked to do, from the project file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.labelling import DrawSpec, LabelSpec
from pipelines.dispatch.label_requests import draw_request, label_request
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings, load_settings
from pipelines.store.folders import sha256_file

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
def settings(tmp_path: Path) -> Settings:
    state = {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    return load_settings(state)


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


def snapshot_at(uri: str) -> DatasetSnapshot:
    return DatasetSnapshot(
        uri=uri,
        content_digest="5" * 64,
        num_pairs={"train": 3, "calibration": 1, "test": 1},
        num_ties=0,
        num_prompts=5,
        sources=("pairs", "pixel"),
        licences=("CC0-1.0",),
        batch_digests=(),
        heldout_prompts_digest="6" * 64,
    )


def test_a_labelling_names_judges_sources_and_the_snapshot(
    write_project: Callable[..., Project], settings: Settings
) -> None:
    request = label_request(write_project(), settings, snapshot_at("file:///here"))
    spec = LabelSpec.model_validate(request.spec)
    assert [judge.name for judge in spec.judges] == ["taste", "helper"]
    assert "panel" in spec.training_sources
    assert (spec.relabelled_sources, spec.human_sources) == (("pairs",), ("pairs",))
    assert [item.content_digest for item in request.inputs] == ["5" * 64, *(j.weights_digest for j in spec.judges)]
    assert request.kind == "label"
    assert request.output_uri == f"{settings.store_uri}/snapshots/{spec.digest}"
    elsewhere = label_request(write_project(), settings, snapshot_at("s3://there/s"))
    assert (elsewhere.spec_digest, elsewhere.inputs[0].uri) == (request.spec_digest, "s3://there/s")


def test_a_proxy_vote_uses_no_human_labels(write_project: Callable[..., Project], settings: Settings) -> None:
    project = write_project(
        ('judges = ["taste", "helper"]', 'judges = ["taste"]'),
        ('kind = "label_model", human_labels = 100', 'kind = "proxy_vote"'),
    )
    spec = LabelSpec.model_validate(label_request(project, settings, snapshot_at("x")).spec)
    assert spec.human_sources == ()
    assert spec.training_sources == ("panel", f"scorer {spec.judges[0].identity}", "taste")


def test_without_a_section_nothing_is_labelled(write_project: Callable[..., Project], settings: Settings) -> None:
    project = write_project().model_copy(update={"labelling": None})
    with pytest.raises(ValueError, match=r"there is no \[labelling\]"):
        label_request(project, settings, snapshot_at("x"))


def test_a_drawing_names_base_prompts_templates_and_licence(
    write_project: Callable[..., Project], settings: Settings, tmp_path: Path
) -> None:
    project = write_project()
    request = draw_request(project, settings, project.sources[1])
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
        draw_request(project, settings, project.sources[1])


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
def test_a_section_that_makes_no_sense_is_refused_when_the_project_is_read(
    write_project: Callable[..., Project], old: str, new: str, says: str
) -> None:
    with pytest.raises(ValueError) as refused:
        write_project((old, new))
    assert says in str(refused.value)
