"""Encode and train requests, and what makes two requests one job."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from words_project import evaluate, names

from alignment.config import load_recipe
from alignment.contracts.data import DatasetSnapshot, EncodeSpec, FeatureCache
from alignment.contracts.training import TrainSpec
from pipelines.dispatch.requests import (
    encode_request,
    train_request,
    with_generation,
)
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder


def test_encode_states_snapshot_base_and_backbone(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    request = encode_request(project, settings, make_snapshot(), project.recipes()[0])
    spec = EncodeSpec.model_validate(request.spec)
    base, _ = hash_folder(Path(project.base.uri))
    assert (spec.base_digest, spec.snapshot_digest) == (base, "5" * 64)
    assert request.spec_digest == spec.digest
    assert request.output_uri == f"{settings.store_uri}/features/{spec.digest}"
    assert names(request) == [base, "5" * 64]
    assert [item.manifest for item in request.inputs] == [False, True]


def test_encode_cuts_images_as_the_recipe_says(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    """The base, and with it the images of evaluation, stays what it is."""
    overrides = ("images.kind=aspect_buckets", "images.step_pixels=16", "images.flip=true")
    bucketed = load_project(project.path, overrides).recipes()[0]
    square = project.recipes()[0]
    cut, plain = (encode_request(project, settings, make_snapshot(), recipe) for recipe in (bucketed, square))
    assert cut.spec["images"] == bucketed.images.model_dump()
    assert cut.spec["images"]["kind"] == "aspect_buckets"
    assert "images" not in plain.spec, "a cache of squares is found under the name it had"
    assert cut.spec["backbone"] == plain.spec["backbone"]


def test_the_same_inputs_give_the_same_job_wherever_the_project_lies(
    project: Project, settings: Settings, tmp_path: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    first = encode_request(project, settings, make_snapshot(), project.recipes()[0])
    for name in ("base", "judge", "guard", "prompts.tsv", "words.toml"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (shutil.copytree if (tmp_path / name).is_dir() else shutil.copy)(tmp_path / name, tmp_path / "elsewhere" / name)
    moved = load_project(tmp_path / "elsewhere" / "words.toml")
    again = encode_request(moved, settings, make_snapshot(), moved.recipes()[0])
    assert (again.job_id, again.output_uri) == (first.job_id, first.output_uri)
    (tmp_path / "elsewhere/base/unet/model.safetensors").write_text("other weights")
    assert encode_request(moved, settings, make_snapshot(), moved.recipes()[0]).job_id != first.job_id


def test_train_binds_the_recipe_to_base_and_cache(project: Project, settings: Settings) -> None:
    cache = FeatureCache(
        uri="file:///store/features/f",
        content_digest="8" * 64,
        spec_digest="9" * 64,
        num_pairs=3,
        num_captions=3,
        latent_shape=(4, 8, 8),
    )
    recipe = project.recipes()[0]
    request = train_request(project, settings, cache, recipe)
    spec = TrainSpec.model_validate(request.spec)
    assert (spec.recipe, spec.cache_digest) == (recipe, "8" * 64)
    assert request.kind == "train"
    assert request.output_uri == f"{settings.store_uri}/models/{spec.digest}"
    assert names(request) == [spec.base_digest, "8" * 64]


def test_captions_that_are_needed_and_missing_stop_the_request(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    cache = FeatureCache(
        uri="file:///store/features/f",
        content_digest="8" * 64,
        spec_digest="9" * 64,
        num_pairs=3,
        num_captions=3,
        latent_shape=(4, 8, 8),
    )
    dcpo, dpo = load_recipe("dcpo_shapes"), project.recipes()[0]
    for known in (None, 2):
        snapshot = make_snapshot().model_copy(update={"num_captioned": known})
        assert encode_request(project, settings, snapshot, dcpo).kind == "encode"
        given = cache.model_copy(update={"num_captioned": known})
        assert train_request(project, settings, given, dcpo).kind == "train"
    bare = make_snapshot().model_copy(update={"num_captioned": 0})
    with pytest.raises(ValueError, match=r"'dcpo' .* snapshot file:///store/snapshots/s has no such captions"):
        encode_request(project, settings, bare, dcpo)
    with pytest.raises(ValueError, match=r"'dcpo' .* feature cache file:///store/features/f has no such captions"):
        train_request(project, settings, cache.model_copy(update={"num_captioned": 0}), dcpo)
    counted = encode_request(project, settings, bare, dpo)
    assert counted.job_id == encode_request(project, settings, make_snapshot(), dpo).job_id


def test_placement_is_no_part_of_the_identity(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    first = encode_request(project, settings, make_snapshot(), project.recipes()[0])
    placed = project.placement.encode.model_copy(update={"num_processes": 8})
    other = project.model_copy(update={"placement": project.placement.model_copy(update={"encode": placed})})
    request = encode_request(other, settings, make_snapshot(), project.recipes()[0])
    assert request.placement.num_processes == 8
    assert (request.job_id, request.output_uri) == (first.job_id, first.output_uri)


def test_a_generation_is_another_job_with_another_answer(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    first = encode_request(project, settings, make_snapshot(), project.recipes()[0])
    second = with_generation(first, 2)
    assert second.output_uri == f"{first.output_uri}.g2"
    assert second.job_id.endswith("-g2")
    assert second.spec_digest == first.spec_digest
    assert with_generation(second, 0) == first


def test_a_base_or_judge_lacking_a_file_is_named(
    project: Project, settings: Settings, tmp_path: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    (tmp_path / "guard" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"Judge .*guard is not complete, it lacks config\.json"):
        evaluate(project, settings)
    (tmp_path / "base" / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"Base model .* lacks unet/config\.json"):
        encode_request(project, settings, make_snapshot(), project.recipes()[0])
