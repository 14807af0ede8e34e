"""New project files, from folders of configurations and small tables of pairs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_bases import FLUX, SD, SD3, XL, make_base

from alignment.catalogues.rewards import ClipPreference, HpsV2
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.stages.new_project import NewProject, write_project

ROOT = Path(__file__).parents[3]
TINY = {"sample_size": 8, "joint_attention_dim": 32, "pooled_projection_dim": 16}
FAMILIES = {
    "sd15": (SD, {}, "stable_diffusion", 512),
    "tiny sd": ({**SD, "sample_size": 8, "cross_attention_dim": 32}, {}, "stable_diffusion", 64),
    "sdxl": (XL, {}, "sdxl", 1024),
    "tiny sdxl": ({**XL, "sample_size": 8}, {}, "sdxl", 64),
    "sd3": (SD3, {"latent_channels": 16}, "sd3", 1024),
    "tiny sd3": ({**SD3, **TINY}, {"latent_channels": 16}, "sd3", 64),
    "flux": (FLUX, {"latent_channels": 16, "sample_size": 1024}, "flux", 1024),
    "tiny flux": ({**FLUX, **TINY}, {"latent_channels": 16, "sample_size": 64}, "flux", 64),
}


@pytest.fixture
def pairs(tmp_path: Path, tiny_pairs: Callable[..., Path], tiny_row: Callable[..., dict[str, Any]]) -> Path:
    """A folder with 30 pairs, beside the folder of the projects."""
    return tiny_pairs([tiny_row(n) for n in range(30)], "votes.parquet", tmp_path / "pairs").parent


def write(settings: Settings, base: Path | str, pairs: Path | str, **fields: Any) -> Project:
    return load_project(write_project(NewProject(name="mine", base=str(base), pairs=str(pairs), **fields), settings))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_of_each_family_is_loaded(family: str, settings: Settings, pairs: Path, tmp_path: Path) -> None:
    denoiser, vae, name, resolution = FAMILIES[family]
    project = write(settings, make_base(tmp_path / "base", denoiser, **vae), pairs)
    assert (project.base.backbone.name, project.base.backbone.resolution) == (name, resolution)
    assert (project.base.uri, project.sources[0].uri) == (str(tmp_path / "base"), str(pairs))
    assert 'uri = "../base"' in project.path.read_text()
    (recipe,) = project.recipes()
    assert recipe.global_batch == 8, "at most half of 18 training pairs"
    assert project.evaluation.prompts == str(tmp_path / "mine/prompts.tsv")


def test_licences_come_from_the_cards(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", SD)
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    (pairs / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    project = write(settings, base, pairs)
    assert (project.base.licence, project.sources[0].licence) == ("creativeml-openrail-m", "cc0-1.0")


def test_pairs_of_a_public_data_set_are_named_so(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    public = pairs.rename(tmp_path / "pickapic_v2")
    (source,) = write(settings, make_base(tmp_path / "base", SD), public).sources
    assert (source.name, source.data_sets) == ("pick_a_pic_v2", ("pick_a_pic_v2",))


def test_judges_are_of_the_kind_that_is_given_or_was_imported(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    base, imported = make_base(tmp_path / "base", SD), tmp_path / "hps"
    imported.mkdir()
    record = {"request": {"kind": "hpsv2", "source": "HPS_v2_compressed.pt"}}
    (imported / "import.json").write_text(json.dumps(record))
    taste = ROOT / "examples/shapes/judges/taste_a"
    project = write(settings, base, pairs, judges=(str(imported), f"clip_preference={taste}"))
    assert [(own.name, own.scorer) for own in project.evaluation.judges] == [
        ("hps", HpsV2(version="2.0")),
        ("taste_a", ClipPreference()),
    ]
    assert project.evaluation.judges[1].uri == str(taste)


@pytest.mark.parametrize(
    ("judge", "complaint"),
    [
        ("{taste}", r"taste_a has no import\.json that states its kind\. Give it: --judge KIND="),
        ("clip_preferense={taste}", "Unknown kind of judge 'clip_preferense'. Did you mean 'clip_preference'"),
        ("diversity={taste}", "Unknown kind of judge 'diversity'"),
        ("clip_preference=/nowhere", "/nowhere does not exist"),
        ("safety={taste}", r"unsafe_labels: Field required"),
    ],
)
def test_a_judge_that_is_not_known_is_named_and_nothing_is_written(
    judge: str, complaint: str, settings: Settings, pairs: Path, tmp_path: Path
) -> None:
    taste = str(ROOT / "examples/shapes/judges/taste_a")
    with pytest.raises(ValueError, match=complaint):
        write(settings, make_base(tmp_path / "base", SD), pairs, judges=(judge.replace("{taste}", taste),))
    assert not (settings.projects_dir / "mine.toml").exists()


def test_two_judges_of_one_name_are_refused(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    taste = f"clip_preference={ROOT}/examples/shapes/judges/taste_a"
    with pytest.raises(ValueError, match="Two judges would be named 'taste_a'"):
        write(settings, make_base(tmp_path / "base", SD), pairs, judges=(taste, taste))


def test_a_file_that_exists_is_not_changed(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", SD)
    settings.projects_dir.mkdir(exist_ok=True)
    (settings.projects_dir / "mine.toml").write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.toml exists\. Choose another name"):
        write(settings, base, pairs)
    assert (settings.projects_dir / "mine.toml").read_text() == "mine"


@pytest.mark.parametrize("name", ["Mine", "2nd", "a/b", "../up", ""])
def test_a_name_that_is_not_allowed_leaves_nothing(name: str, settings: Settings, pairs: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", SD)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"Project name .* is not allowed"):
        write_project(NewProject(name=name, base=str(base), pairs=str(pairs)), settings)
    assert sorted(tmp_path.rglob("*")) == before


def test_pairs_that_are_none_name_the_columns(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", SD)
    with pytest.raises(ValueError, match=r"no \.parquet file under .*base"):
        write(settings, base, base)
    shutil.copy(ROOT / "examples/shapes/prompts.tsv", pairs / "more.parquet")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        write(settings, base, pairs)


def test_prompts_are_counted(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", SD)
    project = write(settings, base, pairs, prompts=str(ROOT / "examples/shapes/prompts.tsv"))
    assert project.gate.minimum_prompts == 200


def test_single_images_make_no_project(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "likes").mkdir()
    (tmp_path / "likes/votes.csv").write_text("prompt,image,liked\nx,a.png,1\n")
    with pytest.raises(ValueError, match="likes holds likes and dislikes of single images, and training needs pairs"):
        write(settings, make_base(tmp_path / "base", SD), tmp_path / "likes")
