"""Relative paths in every field of a project file are resolved against the file's folder."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from alignment.config import RECIPES_DIR
from pipelines.project.file import Project, load_project
from pipelines.project.paths import LocalPath, RecipePath, local_paths

EVERY_PATH = """
name = "full"
prompt_sets = [{ name = "hard", prompts = "files/hard.tsv" }, { name = "easy", prompts = "s3://bucket/easy.tsv" }]
[base]
uri = "files/base"
licence = "x"
backbone = { name = "stable_diffusion", resolution = 64 }
[[sources]]
name = "people"
kind = "pick_a_pic"
uri = "files/pairs"
licence = "x"
[[sources]]
name = "bucket"
kind = "pick_a_pic"
uri = "s3://bucket/pairs"
licence = "x"
[[sources]]
name = "drawn"
kind = "self_generated"
licence = "x"
draw = { prompts = "files/draw.txt", chosen_template = "{prompt}, good", seeds = [0], sampler = SAMPLER }
[[train]]
recipe = "files/own.toml"
[[train]]
recipe = "mapo_shapes"
[search]
recipes = ["files/other.toml", "mapo_shapes"]
prompts = "files/search.tsv"
[evaluation]
prompts = "hard"
seeds = [0, 1]
sampler = SAMPLER
judges = [{ name = "judge", uri = "files/judge", scorer = { kind = "clip_preference" } }]
guards = [{ name = "guard", uri = "files/guard", scorer = { kind = "clip_score" } },
          { name = "contrast", scorer = { kind = "image_statistic", statistic = "contrast" } }]
[online]
prompts = "files/online.txt"
rewards = [{ name = "reward", uri = "files/reward", scorer = { kind = "clip_preference" } }]
[[rewards]]
name = "people"
encoder = "files/encoder"
recipe = { head = { kind = "pal_b" }, global_batch = 8, steps = 2, seed = 1 }
[soup]
method = "greedy"
judge = "taster"
judges = [{ name = "taster", uri = "/files/taster", scorer = { kind = "clip_preference" } }]
prompts = "files/soup.tsv"
minimum_gain = 0.1
[labelling]
scorers = [{ name = "labeller", uri = "reward://people", scorer = { kind = "pal" } }]
judges = ["labeller"]
method = { kind = "proxy_vote" }
[captions]
variant = "dcpo_c"
captioner = "files/captioner"
[gate]
mode = "off"
[gate.guards]
guard = { margin = 0.1 }
contrast = { margin = 0.1 }
""".replace("SAMPLER", "{ steps = 2 }")


PATHS = {
    "base.uri": "files/base",
    "sources.0.uri": "files/pairs",
    "sources.2.draw.prompts": "files/draw.txt",
    "evaluation.prompts": "files/hard.tsv",
    "evaluation.judges.0.uri": "files/judge",
    "evaluation.guards.0.uri": "files/guard",
    "prompt_sets.0.prompts": "files/hard.tsv",
    "online.prompts": "files/online.txt",
    "online.rewards.0.uri": "files/reward",
    "rewards.0.encoder": "files/encoder",
    "soup.prompts": "files/soup.tsv",
    "soup.judges.0.uri": "/files/taster",
    "captions.captioner": "files/captioner",
    "search.prompts": "files/search.tsv",
}
RECIPES = {"train.0.recipe": "files/own.toml", "search.recipes.0": "files/other.toml"}
UNCHANGED = {
    "sources.1.uri": "s3://bucket/pairs",
    "sources.2.uri": "",
    "prompt_sets.1.prompts": "s3://bucket/easy.tsv",
    "evaluation.guards.1.uri": "",
    "labelling.scorers.0.uri": "reward://people",
    "train.1.recipe": "mapo_shapes",
    "search.recipes.1": "mapo_shapes",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "own.toml").write_bytes((RECIPES_DIR / "mapo_shapes.toml").read_bytes())
    (tmp_path / "full.toml").write_text(EVERY_PATH)
    return tmp_path


def read(project: Project, field: str) -> object:
    value: object = project.model_dump()
    for part in field.split("."):
        value = value[int(part)] if isinstance(value, tuple) else value[part]  # type: ignore[index]
    return value


def test_every_relative_path_is_resolved_against_the_folder_of_the_file(folder: Path) -> None:
    project = load_project(folder / "full.toml")
    assert {name: read(project, name) for name in PATHS | RECIPES} == {
        name: str(folder / path) for name, path in (PATHS | RECIPES).items()
    }
    assert {name: read(project, name) for name in UNCHANGED} == UNCHANGED


def test_paths_are_resolved_against_the_first_extended_file(folder: Path) -> None:
    top = folder / "elsewhere" / "full.toml"
    top.parent.mkdir()
    top.write_text('extends = ["../full.toml"]\n[online]\nprompts = "files/more.txt"\n')
    project = load_project(top)
    assert read(project, "base.uri") == str(folder / "files" / "base")
    assert read(project, "online.prompts") == str(folder / "files" / "more.txt")


def test_evaluation_prompts_are_a_prompt_set_by_name_or_a_file_by_path(folder: Path) -> None:
    text = EVERY_PATH.replace('prompts = "hard"', 'prompts = "harder"')
    (folder / "full.toml").write_text(text)
    assert load_project(folder / "full.toml").evaluation.prompts == str(folder / "harder")


def test_links_and_parent_folders_are_resolved(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "files")
    (folder / "full.toml").write_text(EVERY_PATH.replace('"files/base"', '"link/../files/./base"'))
    assert load_project(folder / "full.toml").base.uri == str(folder / "files" / "base")


def test_bad_prompt_sets_are_reported_once(folder: Path) -> None:
    text = EVERY_PATH.replace('prompts = "files/hard.tsv" }', "prompts = 3 }")
    (folder / "full.toml").write_text(text)
    with pytest.raises(ValueError, match=r"prompt_sets\.0\.prompts: ") as raised:
        load_project(folder / "full.toml")
    assert "evaluation" not in str(raised.value)


def test_declared_paths_are_listed_in_the_order_of_the_tables(folder: Path) -> None:
    found = list(local_paths(load_project(folder / "full.toml")))
    expected = {str(folder / path) for path in PATHS.values()}
    assert set(found) == expected | {"s3://bucket/pairs", "s3://bucket/easy.tsv", "reward://people"}
    assert found[:2] == [str(folder / "files" / "base"), str(folder / "files" / "pairs")]


def test_without_a_folder_a_path_is_unchanged() -> None:
    class Table(BaseModel):
        file: LocalPath
        more: tuple[LocalPath, ...] = ()
        recipe: RecipePath = ""
        name: str = "name"

    table = Table(file="a/b", more=("c", ""), recipe="own.toml")
    assert (table.file, table.recipe, list(local_paths(table))) == ("a/b", "own.toml", ["a/b", "c"])
    there = Table.model_validate({"file": "a", "more": ["c", "file:///d"]}, context={"root": Path("/root")})
    assert (there.file, there.more) == ("/root/a", ("/root/c", "file:///d"))
