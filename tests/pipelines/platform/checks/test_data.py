"""Checks of the base model, sources, remote paths and licences."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.contracts.evaluation import Sampler
from pipelines.platform.checks import data, hardware
from pipelines.platform.checks.result import check
from pipelines.project.file import Project, load_project
from pipelines.project.sections import DrawSection, GreedySoupSection, SourceSection
from pipelines.settings import Settings
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[4]


@pytest.fixture
def project() -> Project:
    return load_project(ROOT / "projects/shapes.toml")


def make_base(folder: Path) -> Path:
    """Write the files of a base model, empty except for those that the doctor reads."""
    parts = {"unet": ["diffusers", "UNet"], "tokenizer": ["transformers", "T"], "safety_checker": [None, None]}
    (folder / "unet").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    (folder / "unet/config.json").write_text("{}")
    (folder / "unet/diffusion_pytorch_model.safetensors").touch()
    (folder / "tokenizer/vocab.json").write_text("{}")
    return folder


def test_a_complete_base_lacks_nothing(tmp_path: Path) -> None:
    assert data._missing_files(make_base(tmp_path / "base")) == []


@pytest.mark.parametrize(
    ("gone", "reported"),
    [
        ("model_index.json", "model_index.json"),
        ("unet/config.json", "unet/config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/*.safetensors"),
        ("tokenizer/vocab.json", "tokenizer/"),
    ],
)
def test_each_missing_file_of_the_base_is_named(tmp_path: Path, gone: str, reported: str, project: Project) -> None:
    base = make_base(tmp_path / "base")
    (base / gone).unlink()
    assert data._missing_files(base) == [reported]
    section = project.base.model_copy(update={"uri": str(base)})
    seen = check("base_model", lambda: data._base_model(project.model_copy(update={"base": section})), "fix")
    assert not seen.ok
    assert reported in seen.found


def test_a_missing_shard_of_the_weights_is_named(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "unet/diffusion_pytorch_model.safetensors").rename(base / "unet/w-1.safetensors")
    shards = {"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}
    (base / "unet/w.safetensors.index.json").write_text(json.dumps(shards))
    assert data._missing_files(base) == ["unet/w-2.safetensors"]


@pytest.mark.parametrize(
    ("name", "uri", "data_set"),
    [
        ("prefs", "s3://bucket/pickapic_v2/train", "Pick-a-Pic"),
        ("Pick-A-Pic", "/data/x", "Pick-a-Pic"),
        ("prefs", "/data/HPDv2", "HPD"),
        ("image_reward", "/data/x", "ImageRewardDB"),
    ],
)
def test_a_source_that_looks_like_a_public_data_set_has_to_say_so(
    project: Project, name: str, uri: str, data_set: str
) -> None:
    source = project.sources[0].model_copy(update={"name": name, "uri": uri})
    with pytest.raises(ValueError, match=f"{name!r} looks like {data_set}, but does not say so"):
        data._data_sets(project.model_copy(update={"sources": (source,)}))
    said = source.model_copy(update={"data_sets": ("pick_a_pic_v2",)})
    assert data._data_sets(project.model_copy(update={"sources": (said,)})) == f"{name}: pick_a_pic_v2"
    assert data._data_sets(project) == "shapes_pairs: own pairs"


def test_missing_judges_and_licences_are_named(project: Project) -> None:
    gone = project.evaluation.model_copy(update={"prompts": "/nowhere/prompts.tsv"})
    with pytest.raises(ValueError, match=r"/nowhere/prompts\.tsv"):
        data._evaluation(project.model_copy(update={"evaluation": gone}))
    silent = project.sources[0].model_copy(update={"licence": " "})
    with pytest.raises(ValueError, match="No licence is stated for shapes_pairs"):
        data._licences(project.model_copy(update={"sources": (silent,)}))


def test_an_encoder_or_a_soups_prompts_that_are_missing_are_named(project: Project) -> None:
    (reward,) = project.rewards
    soup = GreedySoupSection(method="greedy", judge="taste_a", prompts="/nowhere/soup.tsv", minimum_gain=0.1)
    wrong = {"rewards": (reward.model_copy(update={"encoder": "/nowhere/clip"}),), "soup": soup}
    seen = check("evaluation", lambda: data._evaluation(project.model_copy(update=wrong)), "fix")
    assert not seen.ok
    assert "/nowhere/clip, /nowhere/soup.tsv" in seen.found


def test_every_file_of_a_project_is_checked(project: Project) -> None:
    search = project.search.model_copy(update={"prompts": "/nowhere/search.tsv"})
    with pytest.raises(ValueError, match=r"are missing: /nowhere/search\.tsv\.$"):
        data._evaluation(project.model_copy(update={"search": search}))


def test_a_shard_or_a_component_outside_the_base_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "unet/w.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../w.safetensors"}}))
    with pytest.raises(ValueError, match="does not stay inside"):
        data._missing_files(base)
    (base / "unet/w.safetensors.index.json").unlink()
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps({**index, "../other": ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(ValueError, match="does not stay inside"):
        data._missing_files(base)


def test_each_source_is_looked_at(project: Project, settings: Settings, tmp_path: Path) -> None:
    assert data._sources(Workspace(project, settings)) == "shapes_pairs: 3 shards, 612 rows"
    (source,) = project.sources
    gone = source.model_copy(update={"name": "gone", "uri": str(tmp_path)})
    (tmp_path / "bad").mkdir()
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "bad/x.parquet")
    bad = source.model_copy(update={"name": "bad", "uri": str(tmp_path / "bad")})
    with pytest.raises(ValueError) as error:
        data._sources(Workspace(project.model_copy(update={"sources": (gone, source, bad)}), settings))
    assert "x.parquet is not a Pick-a-Pic shard" in str(error.value)
    (tmp_path / "bad/x.parquet").unlink()
    with pytest.raises(ValueError, match=r"'gone': no \.parquet file .*'bad': no \.parquet file"):
        data._sources(Workspace(project.model_copy(update={"sources": (gone, source, bad)}), settings))


def test_single_images_are_named(project: Project, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "likes.csv").write_text("prompt,image,liked\nx,a.png,1\n")
    likes = SourceSection(name="likes", kind="likes", uri=str(tmp_path / "likes.csv"), licence="CC0-1.0")
    workspace = Workspace(project.model_copy(update={"sources": (*project.sources, likes)}), settings)
    assert data._sources(workspace).endswith("; likes: 1 shards, 1 rows, likes and dislikes of single images")
    assert [*hardware._training_rows(workspace)] == ["shapes_pairs"], "they need no features"


def test_a_source_that_is_not_drawn_yet_is_no_fault(project: Project, settings: Settings) -> None:
    draw = DrawSection(prompts="/p.txt", chosen_template="{prompt}, bright", seeds=(0,), sampler=Sampler())
    drawn = SourceSection(name="style", kind="self_generated", licence="CC0-1.0", draw=draw)
    found = data._sources(Workspace(project.model_copy(update={"sources": (drawn,)}), settings))
    assert found == "style: not drawn yet, `plumbline draw` does it"


def test_remote_paths_are_asked_for(project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data._remote(project, settings) == "no model or file is remote"
    base = project.base.model_copy(update={"uri": f"hub://owner/name@{'0' * 40}"})
    first, second = project.evaluation.judges
    judges = (first.model_copy(update={"uri": "s3://bucket/judge"}), second)
    away = {"base": base, "evaluation": project.evaluation.model_copy(update={"judges": judges})}
    changed = project.model_copy(update=away)

    def ask(uri: str, _: Settings) -> str:
        if uri.startswith("hub://"):
            raise ValueError(f"{uri} could not be reached.")
        return f"{uri} can be read"

    monkeypatch.setattr(data, "check_remote", ask)
    with pytest.raises(ValueError, match=r"^hub://owner/name@0{40} could not be reached\.$"):
        data._remote(changed, settings)
    assert data._remote(changed.model_copy(update={"base": project.base}), settings) == "s3://bucket/judge can be read"


def test_a_licence_that_is_to_do_is_not_stated(project: Project) -> None:
    base = project.base.model_copy(update={"licence": "TODO: the licence of the weights"})
    with pytest.raises(ValueError, match="No licence is stated for base"):
        data._licences(project.model_copy(update={"base": base}))
