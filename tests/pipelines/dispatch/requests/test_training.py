from pathlib import Path

import pytest

from alignment.config import load_recipe
from alignment.contracts.data import DatasetSnapshot, EncodeSpec, FeatureCache
from alignment.contracts.reference_errors import ReferenceErrors, ReferenceSpec
from alignment.contracts.reward_models import RewardTrainSpec
from alignment.contracts.soup import Greedy, SoupSpec
from alignment.contracts.training import TrainResult, TrainSpec
from pipelines.contracts.jobs import JobRequest
from pipelines.dispatch.job_kinds import Encode, Reference, Soup, Train, TrainReward
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.workspace import Workspace

ORIGINAL = Path(__file__).with_name("words.toml")


def names(request: JobRequest) -> list[str]:
    return [item.alias or item.content_digest for item in request.inputs]


def test_encode_states_snapshot_base_and_backbone(
    project: Project, settings: Settings, snapshot: DatasetSnapshot
) -> None:
    request = Encode(snapshot=snapshot, recipe=project.recipes()[0]).request(Workspace(project, settings))
    spec = EncodeSpec.model_validate(request.spec)
    base, _ = hash_folder(Path(project.base.uri))
    assert (spec.base_digest, spec.snapshot_digest) == (base, "5" * 64)
    assert request.spec_digest == spec.digest
    assert request.output_uri == f"{settings.store_uri}/features/{spec.digest}"
    assert names(request) == [base, "5" * 64]
    assert [item.manifest for item in request.inputs] == [False, True]


def test_encode_cuts_images_as_the_recipe_says(project: Project, settings: Settings, snapshot: DatasetSnapshot) -> None:
    """The base, and with it the images of evaluation, is unchanged."""
    overrides = ("images.kind=aspect_buckets", "images.step_pixels=16", "images.flip=true")
    bucketed = load_project(project.path, overrides).recipes()[0]
    square = project.recipes()[0]
    cut, plain = (
        Encode(snapshot=snapshot, recipe=recipe).request(Workspace(project, settings)) for recipe in (bucketed, square)
    )
    assert cut.spec["images"] == bucketed.images.model_dump()
    assert cut.spec["images"]["kind"] == "aspect_buckets"
    assert "images" not in plain.spec, "a cache of squares is found under the name it had"
    assert cut.spec["backbone"] == plain.spec["backbone"]


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
    request = Train(recipe=recipe, cache=cache).request(Workspace(project, settings))
    spec = TrainSpec.model_validate(request.spec)
    assert (spec.recipe, spec.cache_digest) == (recipe, "8" * 64)
    assert request.kind == "train"
    assert request.output_uri == f"{settings.store_uri}/models/{spec.digest}"
    assert names(request) == [spec.base_digest, "8" * 64]


def test_reference_errors_are_an_input_that_leaves_the_job_as_it_is(project: Project, settings: Settings) -> None:
    cache = FeatureCache(
        uri="file:///store/features/f",
        content_digest="8" * 64,
        spec_digest="9" * 64,
        num_pairs=3,
        num_captions=3,
        latent_shape=(4, 8, 8),
    )
    recipe, workspace = project.recipes()[0], Workspace(project, settings)
    request = Reference(recipe=recipe, cache=cache, num_visits=70).request(workspace)
    spec = ReferenceSpec.model_validate(request.spec)
    assert (spec.common.steps, spec.common.seed, spec.cache_digest) == (70, recipe.seed, "8" * 64)
    assert (request.kind, request.placement) == ("reference_errors", project.placement.train)
    assert request.output_uri == f"{settings.store_uri}/reference_errors/{spec.digest}"
    assert names(request) == [spec.base_digest, "8" * 64]
    found = ReferenceErrors(
        uri=request.output_uri, content_digest="e" * 64, spec_digest=spec.digest, key=spec.key, num_visits=70
    )
    plain = Train(recipe=recipe, cache=cache).request(workspace)
    shared = Train(recipe=recipe, cache=cache, reference=found).request(workspace)
    assert (shared.job_id, shared.output_uri, shared.spec) == (plain.job_id, plain.output_uri, plain.spec)
    assert names(shared) == [*names(plain), spec.key]
    other = found.model_copy(update={"key": "f" * 64})
    with pytest.raises(ValueError, match=r"The reference errors file.* are not those of recipe 'diffusion_dpo_shapes'"):
        Train(recipe=recipe, cache=cache, reference=other).request(workspace)
    half = Reference(recipe=recipe.model_copy(update={"precision": "bf16"}), cache=cache, num_visits=70)
    with pytest.raises(ValueError, match=r"cannot share errors of the base: .* precision 'bf16' is not one of fp32"):
        half.request(workspace)


def test_a_recipe_that_is_not_online_needs_a_feature_cache(project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"trains on a feature cache, but none is given. Encode its snapshot first"):
        Train(recipe=project.recipes()[0]).request(Workspace(project, settings))


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
    """The project with an online recipe rewarded by `reward`, two prompts to train on and a separate scorer."""
    root = project.path.parent
    train = f'recipe = "prdp_shapes"\noverrides = ["objective.reward={reward}"]'
    (root / "words.toml").write_text(ORIGINAL.read_text().replace('recipe = "diffusion_dpo_shapes"', train) + section)
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
    request = Train(recipe=online.recipes()[0]).request(Workspace(online, settings))
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
    with pytest.raises(ValueError, match=r"needs prompts to draw images.* Add \[online\]"):
        online_project(project, "taste", section="")
    with pytest.raises(
        ValueError, match=r"Unknown reward 'tast'. Did you mean 'taste'\? Known: caption, liking, taste"
    ):
        online_project(project, "tast")
    with pytest.raises(ValueError, match=r"caption_dropout is 0\.1, but 'prdp' generates images"):
        load_recipe("prdp_shapes", ["caption_dropout=0.1"])


def test_evaluation_prompts_may_not_be_trained_on(project: Project, settings: Settings) -> None:
    online = online_project(project, "taste")
    (project.path.parent / "train.txt").write_text("a square\nA  Circle!\n")
    with pytest.raises(ValueError, match=r"train.txt holds 1 prompts of the evaluation \(lines 2\)"):
        Train(recipe=online.recipes()[0]).request(Workspace(online, settings))
    (project.path.parent / "train.txt").unlink()
    with pytest.raises(ValueError, match=r"train.txt does not exist"):
        Train(recipe=online.recipes()[0]).request(Workspace(online, settings))


def test_a_spec_needs_the_data_of_its_objective(project: Project, settings: Settings) -> None:
    online = online_project(project, "taste")
    spec = Train(recipe=online.recipes()[0]).request(Workspace(online, settings)).spec
    with pytest.raises(ValueError, match="'prdp' needs online and no cache_digest"):
        TrainSpec.model_validate({**spec, "cache_digest": "8" * 64})
    dpo = load_recipe("diffusion_dpo_shapes").model_dump(mode="json")
    with pytest.raises(ValueError, match="'diffusion_dpo' needs cache_digest and no online"):
        TrainSpec.model_validate({**spec, "recipe": dpo})


def test_captions_that_are_needed_and_missing_stop_the_request(
    project: Project, settings: Settings, snapshot: DatasetSnapshot
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
        snapshot = snapshot.model_copy(update={"num_captioned": known})
        assert Encode(snapshot=snapshot, recipe=dcpo).request(Workspace(project, settings)).kind == "encode"
        given = cache.model_copy(update={"num_captioned": known})
        assert Train(recipe=dcpo, cache=given).request(Workspace(project, settings)).kind == "train"
    bare = snapshot.model_copy(update={"num_captioned": 0})
    with pytest.raises(ValueError, match=r"'dcpo' .* snapshot file:///store/snapshots/s has no such captions"):
        Encode(snapshot=bare, recipe=dcpo).request(Workspace(project, settings))
    with pytest.raises(ValueError, match=r"'dcpo' .* feature cache file:///store/features/f has no such captions"):
        Train(recipe=dcpo, cache=cache.model_copy(update={"num_captioned": 0})).request(Workspace(project, settings))
    counted = Encode(snapshot=bare, recipe=dpo).request(Workspace(project, settings))
    assert counted.job_id == Encode(snapshot=snapshot, recipe=dpo).request(Workspace(project, settings)).job_id


GREEDY = """
[[train]]
recipe = "diffusion_dpo_shapes"
overrides = ["seed=8"]
[soup]
method = "greedy"
judge = "nose"
prompts = "taste.tsv"
seeds = [3]
minimum_gain = 0.1
[[soup.judges]]
name = "nose"
uri = "guard"
scorer = { kind = "clip_score" }
trained_on = ["panel"]
"""


def souping_project(project: Project, section: str = GREEDY, prompts: str = "a hexagon\tany\n") -> Project:
    project.path.write_text(ORIGINAL.read_text() + section)
    (project.path.parent / "taste.tsv").write_text(f"prompt\tcategory\n{prompts}")
    return load_project(project.path)


def soup_of(project: Project, *weights: str) -> Soup:
    """Return a soup of runs of the project's first recipes, each with weights of this digest."""
    results = tuple(
        TrainResult(
            uri=f"file:///store/models/{letter}",
            spec_digest="7" * 64,
            kind="full",
            weights_digest=letter * 64,
            base_digest="b" * 64,
            steps=1,
            num_pairs=1,
            final_metrics={},
        )
        for letter in weights
    )
    recipes = project.recipes()[: len(results)]
    return Soup(trainings=tuple(Train(recipe=recipe) for recipe in recipes), results=results)


def test_a_greedy_soup_states_judge_prompts_and_gain(project: Project, settings: Settings) -> None:
    souping = souping_project(project)
    request = soup_of(souping, "c", "d").request(Workspace(souping, settings))
    spec = SoupSpec.model_validate(request.spec)
    assert isinstance(spec.method, Greedy)
    assert spec.method.judge.training_sources[0] == "nose"
    assert spec.method.judge.trained_on == ("panel",)
    assert (spec.method.seeds, spec.method.minimum_gain) == ((3,), 0.1)
    assert spec.method.sampler == souping.evaluation.sampler
    base, guard = (hash_folder(project.path.parent / name)[0] for name in ("base", "guard"))
    prompts = sha256_file(project.path.parent / "taste.tsv")
    assert names(request) == ["c" * 64, "d" * 64, base, prompts, guard]
    assert (request.kind, request.output_uri) == ("soup", f"{settings.store_uri}/soups/{spec.digest}")


def test_a_greedy_soup_may_not_use_the_prompts_of_the_gate(project: Project, settings: Settings) -> None:
    souping = souping_project(project, prompts="a hexagon\tany\nA  Circle!\tany\n")
    with pytest.raises(ValueError, match=r"taste.tsv holds 1 prompts of the evaluation"):
        soup_of(souping, "c", "d").request(Workspace(souping, settings))


def test_a_soup_needs_a_section_and_two_runs(project: Project, settings: Settings) -> None:
    souping = souping_project(project)
    with pytest.raises(ValueError, match="needs two runs or more, got 1"):
        soup_of(souping, "c").request(Workspace(souping, settings))
    with pytest.raises(ValueError, match=r"no \[soup\]"):
        soup_of(souping, "c", "d").request(Workspace(project, settings))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('judge = "nose"', 'judge = "noze"', "Unknown judge 'noze'. Did you mean 'nose'"),
        (
            '"diffusion_dpo_shapes"\noverrides',
            '"mapo_shapes"\noverrides',
            "diffusion_dpo_shapes and mapo_shapes differ",
        ),
        ("minimum_gain = 0.1\n", "", "soup.greedy.minimum_gain: Field required"),
        ('[[train]]\nrecipe = "diffusion_dpo_shapes"\noverrides = ["seed=8"]\n', "", "there is one .*Add another"),
    ],
)
def test_an_invalid_soup_is_refused_with_the_project(project: Project, old: str, new: str, complaint: str) -> None:
    assert old in GREEDY
    with pytest.raises(ValueError, match=complaint):
        souping_project(project, GREEDY.replace(old, new))


def test_a_reward_is_trained_on_the_snapshot_and_a_frozen_encoder(
    project: Project, settings: Settings, snapshot: DatasetSnapshot, reward_section: str
) -> None:
    project.path.write_text(ORIGINAL.read_text() + reward_section)
    rewarding = load_project(project.path)
    request = TrainReward(snapshot=snapshot, reward=rewarding.rewards[0]).request(Workspace(rewarding, settings))
    spec = RewardTrainSpec.model_validate(request.spec)
    encoder, _ = hash_folder(project.path.parent / "guard")
    assert (spec.snapshot_digest, spec.embedder_digest, spec.mixture) == ("5" * 64, encoder, (0.25, 0.75))
    assert spec.recipe == rewarding.rewards[0].recipe
    assert names(request) == ["5" * 64, encoder]
    assert (request.kind, request.output_uri) == ("train_reward", f"{settings.store_uri}/rewards/{spec.digest}")
