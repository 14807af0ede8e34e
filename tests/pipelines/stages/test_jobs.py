"""The requests that job stages build from their inputs, and the plans of training."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.soup import SoupSpec, Uniform
from alignment.contracts.training import TrainSpec
from pipelines.contracts.release import CandidateVersion
from pipelines.settings import load_settings
from pipelines.stages import jobs, pairs, values
from pipelines.stages import training as training_stages
from pipelines.store.folders import hash_folder
from pipelines.store.storage import open_store

SHAPES = Path(__file__).parents[3] / "projects" / "shapes.toml"
TRAIN = '[[train]]\nrecipe = "diffusion_dpo_shapes"\n'
PRDP = '[[train]]\nrecipe = "prdp_shapes"\n'
SNAPSHOT = {"content_digest": "5" * 64, "uri": "file:///store/snapshots/5"}


def without_captions(text: str) -> str:
    """Remove [captions] from a project file."""
    left, found = re.subn(r"\[captions\]\n(.+\n)+", "", text)
    assert found == 1
    return left


@pytest.fixture
def shapes_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the shapes project with other sections instead of `[[train]]`; returns its path."""
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())

    def make(sections: str) -> str:
        text = SHAPES.read_text().replace('"../examples', f'"{SHAPES.parents[1]}/examples')
        assert TRAIN in text
        (tmp_path / "shapes.toml").write_text(without_captions(text).replace(TRAIN, sections))
        return str(tmp_path / "shapes.toml")

    return make


def version(weights: str, base: str) -> CandidateVersion:
    return CandidateVersion(
        model="shapes",
        version=1,
        kind="full",
        weights_digest=weights * 64,
        weights_uri=f"file:///store/models/{weights}",
        spec_digest="7" * 64,
        base_digest=base,
        snapshot_digest="5" * 64,
        snapshot_uri="file:///store/snapshots/5",
        trained_on=("shapes_pairs",),
        run_id="r",
    )


def test_an_online_recipe_trains_without_a_cache_on_the_projects_prompts_and_reward(shapes_with: Any) -> None:
    """The shapes project may name `prdp_shapes`; the reward it names is one of its gate's judges."""
    path = shapes_with(PRDP)
    request = jobs.job_request(path, "train", {"recipe": 0})
    spec = TrainSpec.model_validate(request.spec)
    assert spec.online is not None
    assert spec.online.reward.name in {judge.name for judge in values.read_project(path).evaluation.judges}
    assert "shapes_panel_a" in spec.online.reward.training_sources


def test_the_champion_is_added_for_the_jobs_that_compare_with_it(
    shapes_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shapes_with(TRAIN)
    base, _ = hash_folder(SHAPES.parents[1] / "examples" / "shapes" / "base")
    champion, candidate = (version(letter, base) for letter in "cd")
    monkeypatch.setattr(jobs, "champion_of", lambda _workspace: champion)
    given = {"candidate": candidate.model_dump(mode="json")}
    for stage in ("evaluate", "coverage"):
        spec = jobs.job_request(path, stage, given).spec
        found = [spec[role]["weights_digest"] for role in ("champion", "candidate")]
        assert found == [champion.weights_digest, candidate.weights_digest]


def test_an_unknown_stage_and_a_wrong_field_are_named(shapes_with: Any) -> None:
    path = shapes_with(TRAIN)
    with pytest.raises(ValueError, match=r"Unknown kind of job 'trian'\. Did you mean 'train'\?"):
        jobs.job_request(path, "trian", {"recipe": 0})
    with pytest.raises(ValueError, match=r"Job train: recipe: There is no recipe 1\. The project file has 1"):
        jobs.job_request(path, "train", {"recipe": 1})
    with pytest.raises(ValueError, match=r"Job label: .*Unknown field 'snapshto'\. Did you mean 'snapshot'"):
        jobs.job_request(path, "label", {"snapshto": SNAPSHOT})


def test_a_generation_is_part_of_the_job_id(shapes_with: Any) -> None:
    path = shapes_with(PRDP)
    assert jobs.job_request(path, "train", {"recipe": 0}, generation=2).job_id.endswith("-g2")


def test_recipes_with_the_same_features_share_an_encode_job(shapes_with: Any) -> None:
    mapo = '[[train]]\nrecipe = "mapo_shapes"\n'
    path = shapes_with(PRDP + TRAIN + mapo)
    assert training_stages.plan_encodings(path, SNAPSHOT) == [{"snapshot": SNAPSHOT, "recipe": 1}]
    cache = {"uri": "file:///store/features/f"}
    assert training_stages.plan_trainings(path, SNAPSHOT, [cache]) == [
        {"snapshot": SNAPSHOT, "recipe": 0},
        {"snapshot": SNAPSHOT, "recipe": 1, "cache": cache},
        {"snapshot": SNAPSHOT, "recipe": 2, "cache": cache},
    ]
    with pytest.raises(ValueError, match="0 of 1 encodings left a result"):
        training_stages.plan_trainings(path, SNAPSHOT, [])


def test_recipes_that_need_the_same_errors_of_the_base_share_a_job(shapes_with: Any) -> None:
    beta = TRAIN + 'overrides = ["objective.beta=2000", "steps=7"]\n'
    seed = TRAIN + 'overrides = ["seed=99"]\n'
    path = shapes_with(TRAIN + seed + beta + '[[train]]\nrecipe = "mapo_shapes"\n')
    recipes = training_stages.read_project(path).recipes()
    cache = {"uri": "file:///store/features/f"}
    plans = training_stages.plan("references", path, SNAPSHOT, [cache])
    visits = recipes[0].steps * recipes[0].global_batch
    assert plans == [{"recipe": 0, "cache": cache, "num_visits": visits}]
    errors = {"uri": "file:///store/reference_errors/e"}
    trainings = training_stages.plan("trainings", path, SNAPSHOT, [cache], [errors])
    assert [training.get("reference") for training in trainings] == [errors, None, errors, None]
    assert training_stages.plan("trainings", path, SNAPSHOT, [cache], []) == [
        {name: value for name, value in training.items() if name != "reference"} for training in trainings
    ]
    with pytest.raises(ValueError, match=r"2 of 1 references left a result\. A task 'reference' that was marked"):
        training_stages.plan_trainings(path, SNAPSHOT, [cache], [errors, errors])


@pytest.mark.parametrize("sections", [TRAIN, TRAIN + TRAIN + 'overrides = ["seed=8"]\n'])
def test_recipes_that_share_no_errors_compute_them_themselves(shapes_with: Any, sections: str) -> None:
    path = shapes_with(sections)
    assert training_stages.plan_references(path, SNAPSHOT, [{"uri": "file:///store/features/f"}]) == []


def test_recipes_with_other_cuts_of_images_get_separate_caches(shapes_with: Any) -> None:
    cut = 'overrides = ["images.kind=aspect_buckets", "images.step_pixels=16"]\n'
    path = shapes_with(TRAIN + TRAIN + cut)
    assert [given["recipe"] for given in training_stages.plan_encodings(path, SNAPSHOT)] == [0, 1]
    trainings = training_stages.plan_trainings(path, SNAPSHOT, [{"uri": "squares"}, {"uri": "buckets"}])
    assert [training["cache"]["uri"] for training in trainings] == ["squares", "buckets"]


def test_the_recipe_that_needs_captions_requests_the_features(shapes_with: Any) -> None:
    path = shapes_with(TRAIN + '[[train]]\nrecipe = "dcpo_shapes"\n' + TRAIN)
    assert training_stages.plan_encodings(path, SNAPSHOT) == [{"snapshot": SNAPSHOT, "recipe": 1}]


def test_a_recipe_with_a_separate_snapshot_gets_a_separate_cache(
    shapes_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shapes_with(TRAIN + TRAIN)
    other = {**SNAPSHOT, "content_digest": "6" * 64}
    monkeypatch.setattr(
        training_stages, "_training_snapshot", lambda _path, snapshot, recipe, _overrides: [snapshot, other][recipe]
    )
    assert [given["snapshot"] for given in training_stages.plan_encodings(path, SNAPSHOT)] == [SNAPSHOT, other]
    trainings = training_stages.plan_trainings(path, SNAPSHOT, [{"uri": "first"}, {"uri": "second"}])
    assert [(t["snapshot"], t["cache"]["uri"]) for t in trainings] == [(SNAPSHOT, "first"), (other, "second")]


def test_nothing_is_encoded_when_all_recipes_are_online(shapes_with: Any) -> None:
    path = shapes_with(PRDP)
    assert training_stages.plan_encodings(path, SNAPSHOT) == []
    assert training_stages.plan_trainings(path, SNAPSHOT, []) == [{"snapshot": SNAPSHOT, "recipe": 0}]


def test_a_soup_is_made_of_the_runs_each_with_its_own_recipe(
    shapes_with: Any, make_snapshot: Any, trained_json: Any
) -> None:
    path = shapes_with(f'{TRAIN}{TRAIN}overrides = ["seed=8"]\n[soup]\nmethod = "uniform"\n')
    trainings = [{"snapshot": make_snapshot().model_dump(mode="json"), "recipe": index} for index in (0, 1)]
    given = {"trainings": trainings, "results": [trained_json("c"), trained_json("d")]}
    request = jobs.job_request(path, "soup", given)
    spec = SoupSpec.model_validate(request.spec)
    assert spec.method == Uniform()
    assert [part.recipe.seed for part in spec.ingredients] == [7, 8]
    assert [part.result.weights_digest for part in spec.ingredients] == ["c" * 64, "d" * 64]
    assert [(i.content_digest, i.uri, i.subfolder) for i in request.inputs] == [
        ("c" * 64, "file:///store/models/c", "weights"),
        ("d" * 64, "file:///store/models/d", "weights"),
    ]
    assert "/soups/" in request.output_uri


def test_each_reward_learns_from_its_own_sources(
    shapes_with: Any, monkeypatch: pytest.MonkeyPatch, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    from pipelines.intake import accepted
    from pipelines.intake import snapshot as snapshots
    from pipelines.intake.report import write

    requested, reported = [], []
    answer = make_snapshot()
    monkeypatch.setattr(write, "write_report", lambda built, _reports, _workspace: reported.append(built))
    monkeypatch.setattr(accepted, "accepted_reports", lambda _workspace, only=(): requested.append(only) or [])
    monkeypatch.setattr(snapshots, "build_snapshot", lambda _reports, _workspace: answer)
    source = '[[sources]]\nname = "panel"\nkind = "pick_a_pic"\nuri = "panel"\nlicence = "CC0-1.0"\n'
    path = shapes_with(f"{TRAIN}{source}")
    text = Path(path).read_text().replace("test_share = 0.1", 'test_share = 0.1\nsources = ["shapes_pairs"]')
    Path(path).write_text(text.replace('name = "people"', 'name = "people"\nsources = ["panel"]'))
    assert [plan["reward"] for plan in training_stages.plan_rewards(path)] == [0]
    assert pairs.snapshot(path)["content_digest"] == answer.content_digest
    assert requested == [("panel",), ("shapes_pairs",)]
    assert reported == [answer], "only the project's snapshot has a data report"


def test_a_project_without_labelling_trains_on_human_labels() -> None:
    plain = {"uri": "file:///store/snapshots/s"}
    assert pairs.labelled_snapshot(str(SHAPES), plain, run_key="") is plain


def test_drawn_pairs_are_at_the_uri_of_their_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest looks for the output of the drawing job, and reports it while it is missing."""
    draw = (
        '[[sources]]\nname = "style"\nkind = "self_generated"\nlicence = "CC0-1.0"\n[sources.draw]\nprompts = "few.txt"'
    )
    draw += '\nchosen_template = "{prompt}, bright"\nseeds = [0]\nsampler = { steps = 5 }\n\n[snapshot]'
    text = SHAPES.read_text().replace('"../examples', f'"{SHAPES.parents[1]}/examples')
    (tmp_path / "shapes.toml").write_text(text.replace("[snapshot]", draw))
    (tmp_path / "few.txt").write_text("a cat\n")
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())
    request = jobs.job_request(str(tmp_path / "shapes.toml"), "draw_pairs", {"source": "style"})
    with pytest.raises(ValueError, match="'style': its pairs are not drawn yet"):
        pairs.list_shards(str(tmp_path / "shapes.toml"))
    store = tmp_path / "pairs"
    store.mkdir()
    (store / "pairs-00000.parquet").write_bytes(b"rows")
    open_store(load_settings().store_uri, load_settings()).publish_folder(store, request.output_uri, {})
    shards = pairs.list_shards(str(tmp_path / "shapes.toml"))
    assert shards[-1]["uri"] == f"{request.output_uri}/pairs-00000.parquet"


CAPTIONS = '[captions]\nvariant = "dcpo_p"\nlevel = "weak"\n'


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shapes project with two recipes, the second of which trains on captions."""
    text = SHAPES.read_text().replace('"../examples', f'"{SHAPES.parents[1]}/examples')
    text = text.replace("[online]", '[[train]]\nrecipe = "dcpo_shapes"\n\n[online]')
    (tmp_path / "shapes.toml").write_text(without_captions(text) + CAPTIONS)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", (tmp_path / "store").as_uri())
    return tmp_path / "shapes.toml"


def test_only_a_recipe_that_needs_captions_trains_on_the_captioned_snapshot(
    shapes: Path, tmp_path: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    path, plain = str(shapes), make_snapshot(num_captioned=0).model_dump(mode="json")
    assert training_stages.needs_captioned_snapshot(path)
    assert training_stages._training_snapshot(path, plain, 0) == plain
    with pytest.raises(ValueError, match=rf"has no captions by \[captions\].*Run `plumbline caption {path}`"):
        training_stages._training_snapshot(path, plain, 1)
    request = jobs.job_request(path, "caption", {"snapshot": plain})
    captioned = plain | {"uri": request.output_uri, "content_digest": "7" * 64, "num_captioned": 3}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.parquet").write_text("pairs")
    open_store(request.output_uri, load_settings()).publish_folder(tmp_path / "out", request.output_uri, captioned)
    assert training_stages._training_snapshot(path, plain, 1) == captioned
    encode = jobs.job_request(
        path, "encode", {"snapshot": training_stages._training_snapshot(path, plain, 1), "recipe": 1}
    )
    assert encode.spec["snapshot_digest"] == "7" * 64


def test_without_captions_in_the_project_every_recipe_keeps_the_plain_snapshot(
    shapes: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    shapes.write_text(shapes.read_text().replace(CAPTIONS, ""))
    plain = make_snapshot(num_captioned=0).model_dump(mode="json")
    assert not training_stages.needs_captioned_snapshot(str(shapes))
    assert training_stages._training_snapshot(str(shapes), plain, 1) == plain
    with pytest.raises(ValueError, match=r"shapes.toml has no \[captions\]\. Add it with variant"):
        jobs.job_request(str(shapes), "caption", {"snapshot": plain})
