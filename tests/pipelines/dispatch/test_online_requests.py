"""Requests of online training: prompts and a reward instead of a cache."""

import pytest
from words_project import PROJECT, names

from alignment.config import load_recipe
from alignment.contracts.training import TrainSpec
from pipelines.dispatch.requests import (
    online_train_request,
)
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder, sha256_file

ONLINE = """
[online]
prompts = "train.txt"
[[online.rewards]]
name = "liking"
uri = "reward"
scorer = { kind = "clip_preference" }
trained_on = ["panel"]
"""


def online_project(project: Project, reward: str, *, section: str = ONLINE) -> Project:
    """The project with an online recipe rewarded by `reward`, two prompts to train on and a scorer of its own."""
    root = project.path.parent
    train = f'recipe = "prdp_shapes"\noverrides = ["objective.reward={reward}"]'
    (root / "words.toml").write_text(PROJECT.replace('recipe = "diffusion_dpo_shapes"', train) + section)
    (root / "train.txt").write_text("a square\n\na star\n")
    (root / "reward").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (root / "reward" / name).write_text("reward")
    return load_project(root / "words.toml")


@pytest.mark.parametrize("reward", ["liking", "taste", "caption"])
def test_online_training_binds_prompts_and_any_scorer_of_the_project(
    project: Project, settings: Settings, reward: str
) -> None:
    online = online_project(project, reward)
    folder = {"liking": "reward", "taste": "judge", "caption": "guard"}[reward]
    request = online_train_request(online, settings, online.recipes()[0])
    spec = TrainSpec.model_validate(request.spec)
    assert spec.cache_digest is None
    assert spec.online is not None
    assert spec.online.prompts_digest == sha256_file(project.path.parent / "train.txt")
    assert spec.online.reward.name == reward
    assert spec.online.reward.weights_digest == hash_folder(project.path.parent / folder)[0]
    assert spec.online.reward.trained_on == (("panel",) if reward == "liking" else ())
    assert names(request) == [spec.base_digest, spec.online.prompts_digest, spec.online.reward.weights_digest]
    assert [item.kind for item in request.inputs] == ["folder", "file", "folder"]
    assert (request.kind, request.output_uri) == ("train", f"{settings.store_uri}/models/{spec.digest}")


def test_an_online_recipe_without_prompts_or_reward_fails_with_the_project(project: Project) -> None:
    with pytest.raises(ValueError, match=r"draws its own images.* Add \[online\]"):
        online_project(project, "taste", section="")
    with pytest.raises(
        ValueError, match=r"Unknown reward 'tast'. Did you mean 'taste'\? Known: caption, liking, taste"
    ):
        online_project(project, "tast")
    with pytest.raises(ValueError, match=r"caption_dropout is 0\.1, but 'prdp' draws its images"):
        load_recipe("prdp_shapes", ["caption_dropout=0.1"])


def test_evaluation_prompts_may_not_be_trained_on(project: Project, settings: Settings) -> None:
    online = online_project(project, "taste")
    (project.path.parent / "train.txt").write_text("a square\nA  Circle!\n")
    with pytest.raises(ValueError, match=r"train.txt holds 1 prompts of the evaluation \(lines 2\)"):
        online_train_request(online, settings, online.recipes()[0])
    (project.path.parent / "train.txt").unlink()
    with pytest.raises(ValueError, match=r"train.txt does not exist"):
        online_train_request(online, settings, online.recipes()[0])


def test_a_spec_needs_the_data_of_its_objective(project: Project, settings: Settings) -> None:
    online = online_project(project, "taste")
    spec = online_train_request(online, settings, online.recipes()[0]).spec
    with pytest.raises(ValueError, match="'prdp' takes online and no cache_digest"):
        TrainSpec.model_validate({**spec, "cache_digest": "8" * 64})
    dpo = load_recipe("diffusion_dpo_shapes").model_dump(mode="json")
    with pytest.raises(ValueError, match="'diffusion_dpo' takes cache_digest and no online"):
        TrainSpec.model_validate({**spec, "recipe": dpo})
