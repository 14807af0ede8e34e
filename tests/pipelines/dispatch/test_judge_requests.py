"""Requests of reward training, and the judges of a request."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from words_project import PROJECT, REWARD, evaluate, names, register_judge

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import EvalSpec
from alignment.contracts.reward_models import RewardTrainSpec
from pipelines.dispatch.requests import (
    judge_of,
    reward_request,
)
from pipelines.project.file import Project, load_project
from pipelines.project.sections import JudgeSection
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder


def test_a_reward_is_trained_on_the_snapshot_and_a_frozen_encoder(
    project: Project, settings: Settings, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    project.path.write_text(PROJECT + REWARD)
    rewarding = load_project(project.path)
    request = reward_request(rewarding, settings, make_snapshot(), rewarding.rewards[0])
    spec = RewardTrainSpec.model_validate(request.spec)
    encoder, _ = hash_folder(project.path.parent / "guard")
    assert (spec.snapshot_digest, spec.embedder_digest, spec.mixture) == ("5" * 64, encoder, (0.25, 0.75))
    assert spec.recipe == rewarding.rewards[0].recipe
    assert names(request) == ["5" * 64, encoder]
    assert (request.kind, request.output_uri) == ("train_reward", f"{settings.store_uri}/rewards/{spec.digest}")


def test_a_trained_judge_is_fixed_by_its_digest_with_all_it_learnt_from(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    section = '[[evaluation.judges]]\nname = "folk"\nuri = "reward://people"\nscorer = { kind = "pal" }\n'
    guards = "[[evaluation.guards]]"
    assert guards in PROJECT
    judged = PROJECT.replace(guards, f'{section}trained_on = ["clip_labels"]\n{guards}')
    project.path.write_text(judged + REWARD)
    rewarding = load_project(project.path)
    with pytest.raises(ValueError, match=r"No judge 'people' is registered yet"):
        evaluate(rewarding, settings)
    first = register_judge(settings, tmp_path, "a")
    request = evaluate(rewarding, settings)
    folk = EvalSpec.model_validate(request.spec).judges[1]
    assert (folk.name, folk.weights_digest, folk.trained_on) == ("folk", "a" * 64, ("clip_labels", "pairs"))
    found = next(item for item in request.inputs if item.content_digest == "a" * 64)
    assert (found.uri, found.subfolder, found.manifest) == (first.uri, "judge", True)
    register_judge(settings, tmp_path, "e")
    assert "reward://" not in request.model_dump_json(), "a spec names digests, never the newest of a name"
    assert EvalSpec.model_validate(evaluate(rewarding, settings).spec).judges[1].weights_digest == "e" * 64


def test_a_judge_is_known_by_its_weights_wherever_they_lie(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    section = project.evaluation.judges[0]
    shutil.copytree(tmp_path / "judge", tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("A copy.")
    judge, copy = (
        judge_of(project, section.model_copy(update={"name": name, "uri": str(tmp_path / name)}), settings)
        for name in ("judge", "copy")
    )
    other = judge_of(project, section.model_copy(update={"uri": str(tmp_path / "guard")}), settings)
    assert judge.weights_digest != copy.weights_digest
    assert judge.identity == copy.identity != other.identity
    assert f"scorer {judge.identity}" in copy.lessons


def test_scorers_without_weights_are_known_by_their_settings(project: Project, settings: Settings) -> None:
    sections = [
        JudgeSection.model_validate({"name": "s", "scorer": {"kind": "image_statistic", "statistic": statistic}})
        for statistic in ("contrast", "saturation")
    ]
    first, second = (judge_of(project, section, settings) for section in sections)
    assert first.weights_digest == second.weights_digest
    assert first.identity is not None
    assert first.identity != second.identity


def test_a_trained_judge_is_known_by_the_weights_in_its_manifest(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    section = JudgeSection.model_validate({"name": "s", "uri": "reward://people", "scorer": {"kind": "pal"}})
    (tmp_path / "a" / "judge").mkdir(parents=True)
    (tmp_path / "a" / "judge" / "head.safetensors").write_text("head")
    (tmp_path / "a" / "other.safetensors").write_text("no part of the judge")
    register_judge(settings, tmp_path, "a")
    head = hashlib.sha256(b"head").hexdigest()
    assert judge_of(project, section, settings).identity == hashlib.sha256(head.encode()).hexdigest()
