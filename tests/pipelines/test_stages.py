"""The joined stages: which request a stage makes of what it is given."""

import re
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts import DatasetSnapshot, TrainResult, TrainSpec
from alignment.soup_contracts import SoupSpec, Uniform
from pipelines import stages
from pipelines.settings import load_settings
from pipelines.storage import open_store

SHAPES = Path(__file__).parents[2] / "projects" / "shapes.toml"
TRAIN = '[[train]]\nrecipe = "diffusion_dpo_shapes"\n'
PRDP = '[[train]]\nrecipe = "prdp_shapes"\n'
SNAPSHOT = {"content_digest": "5" * 64, "uri": "file:///store/snapshots/5"}


def without_captions(text: str) -> str:
    """A project file less its [captions]."""
    left, found = re.subn(r"\[captions\]\n(.+\n)+", "", text)
    assert found == 1
    return left


@pytest.fixture
def shapes_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The path of a shapes project with other sections in place of its `[[train]]`."""
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())

    def make(sections: str) -> str:
        text = SHAPES.read_text().replace('"../examples', f'"{SHAPES.parents[1]}/examples')
        assert TRAIN in text
        (tmp_path / "shapes.toml").write_text(without_captions(text).replace(TRAIN, sections))
        return str(tmp_path / "shapes.toml")

    return make


def trained(weights: str) -> dict[str, Any]:
    """A finished run, as JSON."""
    return TrainResult(
        uri=f"file:///store/models/{weights}",
        spec_digest="7" * 64,
        kind="full",
        weights_digest=weights * 64,
        base_digest="b" * 64,
        steps=1,
        num_pairs=1,
        final_metrics={},
    ).model_dump(mode="json")


def test_an_online_recipe_trains_without_a_cache_on_the_projects_prompts_and_reward(shapes_with: Any) -> None:
    """The shapes project may name `prdp_shapes`; the reward it names is one of its gate's judges."""
    path = shapes_with(PRDP)
    request = stages.job_request(path, "train", {"recipe": 0})
    spec = TrainSpec.model_validate(request.spec)
    assert spec.online is not None
    assert spec.online.reward.name in {judge.name for judge in stages.read_project(path).evaluation.judges}
    assert "shapes_panel_a" in spec.online.reward.lessons


def test_recipes_that_read_the_same_features_are_encoded_for_once(shapes_with: Any) -> None:
    mapo = '[[train]]\nrecipe = "mapo_shapes"\n'
    path = shapes_with(PRDP + TRAIN + mapo)
    assert stages.plan_encodings(path, SNAPSHOT) == [{"snapshot": SNAPSHOT, "recipe": 1}]
    cache = {"uri": "file:///store/features/f"}
    assert stages.plan_trainings(path, SNAPSHOT, [cache]) == [
        {"snapshot": SNAPSHOT, "recipe": 0},
        {"snapshot": SNAPSHOT, "recipe": 1, "cache": cache},
        {"snapshot": SNAPSHOT, "recipe": 2, "cache": cache},
    ]
    with pytest.raises(ValueError, match="shorter"):
        stages.plan_trainings(path, SNAPSHOT, [])


def test_the_recipe_that_needs_captions_asks_for_the_features(shapes_with: Any) -> None:
    path = shapes_with(TRAIN + '[[train]]\nrecipe = "dcpo_shapes"\n' + TRAIN)
    assert stages.plan_encodings(path, SNAPSHOT) == [{"snapshot": SNAPSHOT, "recipe": 1}]


def test_a_recipe_with_a_snapshot_of_its_own_gets_a_cache_of_its_own(
    shapes_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shapes_with(TRAIN + TRAIN)
    other = {**SNAPSHOT, "content_digest": "6" * 64}
    monkeypatch.setattr(
        stages, "training_snapshot", lambda _path, snapshot, recipe, _overrides: [snapshot, other][recipe]
    )
    assert [given["snapshot"] for given in stages.plan_encodings(path, SNAPSHOT)] == [SNAPSHOT, other]
    trainings = stages.plan_trainings(path, SNAPSHOT, [{"uri": "first"}, {"uri": "second"}])
    assert [(t["snapshot"], t["cache"]["uri"]) for t in trainings] == [(SNAPSHOT, "first"), (other, "second")]


def test_nothing_is_encoded_when_all_recipes_are_online(shapes_with: Any) -> None:
    path = shapes_with(PRDP)
    assert stages.plan_encodings(path, SNAPSHOT) == []
    assert stages.plan_trainings(path, SNAPSHOT, []) == [{"snapshot": SNAPSHOT, "recipe": 0}]


def test_a_soup_is_made_of_the_runs_each_with_its_own_recipe(shapes_with: Any) -> None:
    path = shapes_with(f'{TRAIN}{TRAIN}overrides = ["seed=8"]\n[soup]\nmethod = "uniform"\n')
    trainings = [{"snapshot": SNAPSHOT, "recipe": 0}, {"snapshot": SNAPSHOT, "recipe": 1}]
    given = {"trainings": trainings, "results": [trained("c"), trained("d")]}
    request = stages.job_request(path, "soup", given)
    spec = SoupSpec.model_validate(request.spec)
    assert spec.method == Uniform()
    assert [part.recipe.seed for part in spec.ingredients] == [7, 8]
    assert [part.result.weights_digest for part in spec.ingredients] == ["c" * 64, "d" * 64]
    assert [(i.content_digest, i.uri, i.subfolder) for i in request.inputs] == [
        ("c" * 64, "file:///store/models/c", "weights"),
        ("d" * 64, "file:///store/models/d", "weights"),
    ]
    assert "/soups/" in request.output_uri


CAPTIONS = '[captions]\nvariant = "dcpo_p"\nlevel = "weak"\n'
PLAIN = DatasetSnapshot(
    uri="file:///store/snapshots/s",
    content_digest="5" * 64,
    num_pairs={"train": 3, "calibration": 1, "test": 1},
    num_ties=0,
    num_captioned=0,
    num_prompts=5,
    sources=("pairs",),
    licences=("CC0-1.0",),
    batch_digests=(),
    heldout_prompts_digest="6" * 64,
)


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shapes project with two recipes, the second of which trains on captions."""
    text = SHAPES.read_text().replace('"../examples', f'"{SHAPES.parents[1]}/examples')
    text = text.replace("[online]", '[[train]]\nrecipe = "dcpo_shapes"\n\n[online]')
    (tmp_path / "shapes.toml").write_text(without_captions(text) + CAPTIONS)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())
    return tmp_path / "shapes.toml"


def test_a_recipe_that_wants_captions_takes_the_captioned_snapshot_and_the_others_the_plain_one(
    shapes: Path, tmp_path: Path
) -> None:
    path, plain = str(shapes), PLAIN.model_dump(mode="json")
    assert stages.needs_captioned_snapshot(path)
    assert stages.training_snapshot(path, plain, 0) == plain
    with pytest.raises(ValueError, match=rf"has no captions by \[captions\].*Run plumbline caption {path}"):
        stages.training_snapshot(path, plain, 1)
    request = stages.job_request(path, "caption", {"snapshot": plain})
    captioned = plain | {"uri": request.output_uri, "content_digest": "7" * 64, "num_captioned": 3}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.parquet").write_text("pairs")
    open_store(request.output_uri, load_settings()).publish_folder(tmp_path / "out", request.output_uri, captioned)
    assert stages.training_snapshot(path, plain, 1) == captioned
    encode = stages.job_request(path, "encode", {"snapshot": stages.training_snapshot(path, plain, 1), "recipe": 1})
    assert encode.spec["snapshot_digest"] == "7" * 64


def test_without_captions_in_the_project_every_recipe_keeps_the_plain_snapshot(shapes: Path) -> None:
    shapes.write_text(shapes.read_text().replace(CAPTIONS, ""))
    plain = PLAIN.model_dump(mode="json")
    assert not stages.needs_captioned_snapshot(str(shapes))
    assert stages.training_snapshot(str(shapes), plain, 1) == plain
    with pytest.raises(ValueError, match=r"shapes.toml has no \[captions\]\. Add it with variant"):
        stages.job_request(str(shapes), "caption", {"snapshot": plain})
