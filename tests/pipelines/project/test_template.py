"""The text of a new project file."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from alignment.catalogues.backbones import SDXL
from alignment.catalogues.rewards import HpsV2, PickScore
from pipelines.project.file import load_project
from pipelines.project.recipe_choice import ChosenRecipe, choose_recipe
from pipelines.project.template import (
    FoundBase,
    FoundJudge,
    FoundPairs,
    FoundProject,
    project_text,
    usual_shares,
)

REPEATED = ("evaluation.judges", "evaluation.guards", "placement.train", "placement.evaluate")
"""Tables that follow one of their kind, with its comment."""
PAIRS = FoundPairs(name="votes", kind="pick_a_pic", uri="s3://data/votes", num_shards=2, num_rows=30)


def found(**changes: Any) -> FoundProject:
    """A project of SDXL with 30 rows."""
    facts: dict[str, Any] = {
        "name": "mine",
        "base": FoundBase(uri="s3://models/sdxl", backbone=SDXL(), licence="openrail++"),
        "pairs": PAIRS,
        "recipe": choose_recipe(SDXL(), 18),
        "prompts_uri": "../mine/prompts.tsv",
    }
    return FoundProject(**{**facts, **changes})


def read(project: FoundProject) -> dict[str, Any]:
    return tomllib.loads(project_text(project))


def test_every_section_has_a_comment_and_lines_are_short(tmp_path: Path) -> None:
    text = project_text(found())
    for block in text.split("\n\n"):
        first = next(line for line in block.splitlines() if line.startswith(("[", "#")))
        assert first.startswith("#") or first.strip("[]") in REPEATED
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120
    (tmp_path / "mine.toml").write_text(text)
    project = load_project(tmp_path / "mine.toml")
    assert (project.gate.mode, project.gate.voting_judges, project.placement.train.micro_batch) == ("dry_run", 2, 4)


def test_what_was_not_found_is_to_do() -> None:
    text = project_text(found(base=FoundBase(uri="s3://models/sdxl", backbone=SDXL())))
    own = tomllib.loads(text)
    assert own["base"]["licence"] == own["sources"][0]["licence"] == "TODO: state the licence"
    assert text.count("TODO: ") == 4, "two licences, the prompts and the judges"


def test_the_published_judges_did_not_learn_from_the_pairs_and_have_two_encoders() -> None:
    def names(data_set: str) -> list[str]:
        pairs = PAIRS.model_copy(update={"data_set": data_set})
        return [judge["name"] for judge in read(found(pairs=pairs))["evaluation"]["judges"]]

    assert names("") == names("pick_a_pic_v2") == ["hpsv21", "imagereward"]
    assert names("hpd_v2") == ["imagereward", "pickscore"]
    assert names("image_reward_db") == ["hpsv21", "aesthetic_v2"]


def test_given_judges_set_the_requirements() -> None:
    one = FoundJudge(name="a", uri="../a", scorer=HpsV2(version="2.0"))
    two = FoundJudge(name="b", uri="../b", scorer=PickScore())
    own = read(found(judges=(one,)))
    assert own["gate"]["required_judges"] == 1
    assert own["evaluation"]["judges"][0]["scorer"] == {"kind": "hpsv2", "version": "2.0"}
    gate = read(found(judges=(one, two)))["gate"]
    assert (gate["required_judges"], gate["required_families"]) == (2, 1), "both are a CLIP ViT-H"


@pytest.mark.parametrize(("number", "stated"), [(None, None), (60, 60), (500, None)])
def test_few_prompts_lower_the_requirement(number: int | None, stated: int | None) -> None:
    assert read(found(num_prompts=number))["gate"].get("minimum_prompts") == stated


def test_text_that_toml_would_read_otherwise_is_quoted() -> None:
    base = FoundBase(uri='../a "b" \\ c', backbone=SDXL(), licence="own\u00e9\ttab")
    own = read(found(base=base, recipe=ChosenRecipe(recipe="diffusion_dpo_sdxl_pickapic")))
    assert (own["base"]["uri"], own["base"]["licence"]) == ('../a "b" \\ c', "own\u00e9\ttab")
    assert "overrides" not in own["train"][0]


def test_processes_follow_the_gpus() -> None:
    assert read(found(num_gpus=8))["placement"]["train"]["num_processes"] == 8
    assert read(found())["placement"]["encode"]["num_processes"] == 1


@pytest.mark.parametrize(("rows", "shares"), [(30, (0.3, 0.1)), (1300, (0.3, 0.1)), (1400, (0.15, 0.1))])
def test_few_rows_hold_out_more(rows: int, shares: tuple[float, float]) -> None:
    assert usual_shares(rows) == shares
