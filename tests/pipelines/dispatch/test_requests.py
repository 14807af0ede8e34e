import hashlib
import json
import shutil
from pathlib import Path

import pytest

from alignment.config import load_recipe
from alignment.contracts.calibration import CalibrationSpec
from alignment.contracts.captions import Captioner, CaptionSpec, HybridCaptions, Perturbation
from alignment.contracts.coverage import CoverageSpec
from alignment.contracts.data import DatasetSnapshot, EncodeSpec, FeatureCache
from alignment.contracts.evaluation import EvalSpec
from alignment.contracts.reward_models import RewardTrainResult, RewardTrainSpec
from alignment.contracts.soup import Greedy, SoupIngredient, SoupSpec
from alignment.contracts.training import TrainResult, TrainSpec
from pipelines.contracts.jobs import JobRequest
from pipelines.contracts.judges import RegisteredJudge, RewardReport
from pipelines.contracts.release import CandidateVersion
from pipelines.dispatch.evaluation_requests import aa_request, calibrate_request, coverage_request, evaluate_request
from pipelines.dispatch.requests import (
    caption_request,
    encode_request,
    judge_of,
    online_train_request,
    reward_request,
    soup_request,
    train_request,
    with_generation,
)
from pipelines.project.file import Project, load_project
from pipelines.project.sections import CoverageSection, JudgeSection
from pipelines.records import trained_judges
from pipelines.settings import Settings, load_settings
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.store.storage import open_store

PROJECT = """
name = "words"
[base]
uri = "base"
licence = "Apache-2.0"
backbone = { name = "stable_diffusion", resolution = 64 }
[[sources]]
name = "pairs"
kind = "pick_a_pic"
uri = "pairs"
licence = "CC0-1.0"
[[train]]
recipe = "diffusion_dpo_shapes"
[evaluation]
prompts = "prompts.tsv"
seeds = [0, 1]
sampler = { steps = 4 }
[[evaluation.judges]]
name = "taste"
uri = "judge"
scorer = { kind = "clip_preference" }
[[evaluation.guards]]
name = "caption"
uri = "guard"
scorer = { kind = "clip_score" }
[placement.evaluate]
micro_batch = 5
[gate]
required_judges = 1
[gate.guards]
caption = { margin = 1.0 }
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    state = {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    return load_settings(state)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    files = {
        "words.toml": PROJECT,
        "prompts.tsv": "prompt\tcategory\na circle\tshape\n",
        "base/model_index.json": json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}),
    }
    for folder in ("base/unet", "judge", "guard"):
        files |= {f"{folder}/config.json": folder, f"{folder}/model.safetensors": folder}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return load_project(tmp_path / "words.toml")


@pytest.mark.parametrize(("backbone", "scheduler"), [("stable_diffusion", "flow_euler"), ("flux", "ddim")])
def test_a_sampler_that_does_not_fit_the_backbone_is_refused_when_the_project_is_read(
    project: Project, backbone: str, scheduler: str
) -> None:
    text = PROJECT.replace("sampler = { steps = 4 }", f'sampler = {{ steps = 4, scheduler = "{scheduler}" }}')
    text = text.replace('name = "stable_diffusion"', f'name = "{backbone}"')
    text = text.replace('"diffusion_dpo_shapes"', f'"diffusion_dpo_shapes"\noverrides = ["backbone.name={backbone}"]')
    project.path.write_text(text)
    with pytest.raises(
        ValueError, match=rf"'{scheduler}' does not draw with backbone '{backbone}'.*evaluation\.sampler"
    ):
        load_project(project.path)


def make_snapshot() -> DatasetSnapshot:
    return DatasetSnapshot(
        uri="file:///store/snapshots/s",
        content_digest="5" * 64,
        num_pairs={"train": 3, "calibration": 1, "test": 1},
        num_ties=0,
        num_prompts=5,
        sources=("pairs",),
        licences=("CC0-1.0",),
        batch_digests=(),
        heldout_prompts_digest="6" * 64,
    )


def make_version(project: Project, weights: str, **changes: object) -> CandidateVersion:
    base, _ = hash_folder(Path(project.base.uri))
    fields = {
        "model": "words",
        "version": 1,
        "kind": "full",
        "weights_digest": weights * 64,
        "weights_uri": f"file:///store/models/{weights}",
        "spec_digest": "7" * 64,
        "base_digest": base,
        "snapshot_digest": "5" * 64,
        "snapshot_uri": "file:///store/snapshots/s",
        "trained_on": ("pairs",),
        "run_id": "r",
        **changes,
    }
    return CandidateVersion.model_validate({k: v for k, v in fields.items() if k in CandidateVersion.model_fields})


def evaluate(project: Project, settings: Settings, champion: CandidateVersion | None = None) -> JobRequest:
    candidate = make_version(project, "c")
    snapshot = make_snapshot()
    return evaluate_request(
        project,
        settings,
        candidate=candidate,
        champion=champion,
        snapshot_uri=snapshot.uri,
        snapshot_digest=snapshot.content_digest,
    )


def names(request: JobRequest) -> list[str]:
    return [item.alias or item.content_digest for item in request.inputs]


def test_encode_states_snapshot_base_and_backbone(project: Project, settings: Settings) -> None:
    request = encode_request(project, settings, make_snapshot(), project.recipes()[0])
    spec = EncodeSpec.model_validate(request.spec)
    base, _ = hash_folder(Path(project.base.uri))
    assert (spec.base_digest, spec.snapshot_digest) == (base, "5" * 64)
    assert request.spec_digest == spec.digest
    assert request.output_uri == f"{settings.store_uri}/features/{spec.digest}"
    assert names(request) == [base, "5" * 64]
    assert [item.manifest for item in request.inputs] == [False, True]


def test_encode_cuts_images_as_the_recipe_says(project: Project, settings: Settings) -> None:
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
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    import shutil

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


def test_captions_that_are_needed_and_missing_stop_the_request(project: Project, settings: Settings) -> None:
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
    project.path.write_text(PROJECT + section)
    (project.path.parent / "taste.tsv").write_text(f"prompt\tcategory\n{prompts}")
    return load_project(project.path)


def run_of(project: Project, recipe: int, weights: str) -> SoupIngredient:
    result = TrainResult(
        uri=f"file:///store/models/{weights}",
        spec_digest="7" * 64,
        kind="full",
        weights_digest=weights * 64,
        base_digest="b" * 64,
        steps=1,
        num_pairs=1,
        final_metrics={},
    )
    return SoupIngredient(recipe=project.recipes()[recipe], result=result)


def test_a_greedy_soup_states_judge_prompts_and_gain(project: Project, settings: Settings) -> None:
    souping = souping_project(project)
    request = soup_request(souping, settings, [run_of(souping, 0, "c"), run_of(souping, 1, "d")])
    spec = SoupSpec.model_validate(request.spec)
    assert isinstance(spec.method, Greedy)
    assert spec.method.judge.lessons[0] == "nose"
    assert spec.method.judge.trained_on == ("panel",)
    assert (spec.method.seeds, spec.method.minimum_gain) == ((3,), 0.1)
    assert spec.method.sampler == souping.evaluation.sampler
    base, guard = (hash_folder(project.path.parent / name)[0] for name in ("base", "guard"))
    prompts = sha256_file(project.path.parent / "taste.tsv")
    assert names(request) == ["c" * 64, "d" * 64, base, prompts, guard]
    assert (request.kind, request.output_uri) == ("soup", f"{settings.store_uri}/soups/{spec.digest}")


def test_a_greedy_soup_may_not_taste_the_prompts_of_the_gate(project: Project, settings: Settings) -> None:
    souping = souping_project(project, prompts="a hexagon\tany\nA  Circle!\tany\n")
    with pytest.raises(ValueError, match=r"taste.tsv holds 1 prompts of the evaluation"):
        soup_request(souping, settings, [run_of(souping, 0, "c"), run_of(souping, 1, "d")])


def test_a_soup_needs_a_section_and_two_runs(project: Project, settings: Settings) -> None:
    souping = souping_project(project)
    with pytest.raises(ValueError, match="needs two runs or more, got 1"):
        soup_request(souping, settings, [run_of(souping, 0, "c")])
    with pytest.raises(ValueError, match=r"there is no \[soup\]"):
        soup_request(project, settings, [run_of(souping, 0, "c"), run_of(souping, 1, "d")])


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
def test_a_soup_that_cannot_be_is_refused_with_the_project(
    project: Project, old: str, new: str, complaint: str
) -> None:
    assert old in GREEDY
    with pytest.raises(ValueError, match=complaint):
        souping_project(project, GREEDY.replace(old, new))


REWARD = """
[[rewards]]
name = "people"
encoder = "guard"
mixture = [0.25, 0.75]
[rewards.recipe]
head = { kind = "pal_b" }
global_batch = 8
steps = 2
seed = 1
"""


def test_a_reward_is_trained_on_the_snapshot_and_a_frozen_encoder(project: Project, settings: Settings) -> None:
    project.path.write_text(PROJECT + REWARD)
    rewarding = load_project(project.path)
    request = reward_request(rewarding, settings, make_snapshot(), rewarding.rewards[0])
    spec = RewardTrainSpec.model_validate(request.spec)
    encoder, _ = hash_folder(project.path.parent / "guard")
    assert (spec.snapshot_digest, spec.embedder_digest, spec.mixture) == ("5" * 64, encoder, (0.25, 0.75))
    assert spec.recipe == rewarding.rewards[0].recipe
    assert names(request) == ["5" * 64, encoder]
    assert (request.kind, request.output_uri) == ("train_reward", f"{settings.store_uri}/rewards/{spec.digest}")


def register_judge(settings: Settings, folder: Path, letter: str) -> RegisteredJudge:
    """Publish a finished reward training and its judge."""
    store = open_store(settings.store_uri)
    uri = store.uri("rewards", letter)
    facts = {"spec_digest": "7" * 64, "judge_digest": letter * 64, "mixture": (1.0,), "accuracies": ()}
    sizes = {"num_pairs": 3, "num_users": 2, "best_step": 1}
    result = RewardTrainResult(uri=uri, head_digest="8" * 64, steps=2, final_metrics={}, **facts, **sizes)  # type: ignore[arg-type]
    (folder / letter).mkdir(exist_ok=True)
    (folder / letter / "head.json").write_text("{}")
    store.publish_folder(folder / letter, uri, result.model_dump(mode="json"))
    return trained_judges.publish(
        RegisteredJudge(
            project="words",
            name="people",
            uri=uri,
            judge_digest=letter * 64,
            spec_digest="7" * 64,
            snapshot_digest="5" * 64,
            trained_on=("pairs",),
            report=RewardReport(head="pal_b", mixture=(1.0,), accuracies=(), **sizes),
        ),
        settings,
    )


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


def test_placement_is_no_part_of_the_identity(project: Project, settings: Settings) -> None:
    first = encode_request(project, settings, make_snapshot(), project.recipes()[0])
    placed = project.placement.encode.model_copy(update={"num_processes": 8})
    other = project.model_copy(update={"placement": project.placement.model_copy(update={"encode": placed})})
    request = encode_request(other, settings, make_snapshot(), project.recipes()[0])
    assert request.placement.num_processes == 8
    assert (request.job_id, request.output_uri) == (first.job_id, first.output_uri)


def test_a_generation_is_another_job_with_another_answer(project: Project, settings: Settings) -> None:
    first = encode_request(project, settings, make_snapshot(), project.recipes()[0])
    second = with_generation(first, 2)
    assert second.output_uri == f"{first.output_uri}.g2"
    assert second.job_id.endswith("-g2")
    assert second.spec_digest == first.spec_digest
    assert with_generation(second, 0) == first


def test_without_a_champion_the_base_is_the_incumbent(project: Project, settings: Settings, tmp_path: Path) -> None:
    request = evaluate(project, settings)
    spec = EvalSpec.model_validate(request.spec)
    base, _ = hash_folder(tmp_path / "base")
    assert (spec.champion.kind, spec.champion.weights_digest) == ("base", base)
    assert spec.prompts_digest == sha256_file(tmp_path / "prompts.tsv")
    assert [judge.weights_digest for judge in (*spec.judges, *spec.guards)] == [
        hash_folder(tmp_path / "judge")[0],
        hash_folder(tmp_path / "guard")[0],
    ]
    assert len(request.side_outputs) == 2, "candidate and base; the champion is the base"
    assert request.placement.micro_batch == 5
    by_name = {item.alias or item.content_digest: item for item in request.inputs}
    assert by_name["c" * 64].subfolder == "weights"
    assert by_name["c" * 64].uri == "file:///store/models/c"
    assert by_name[spec.prompts_digest].kind == "file"
    assert {"5" * 64, base} < set(by_name)


def test_images_that_are_in_the_store_are_inputs_by_their_specs_digest(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    champion = make_version(project, "d", version=2)
    first = evaluate(project, settings, champion)
    assert len(first.side_outputs) == 3
    assert names(first).count("d" * 64) == 1
    spec = EvalSpec.model_validate(first.spec)
    drawn = spec.sample_spec(spec.champion).digest
    side = next(side for side in first.side_outputs if side.path == f"samples/{drawn}")
    assert side.uri == f"{settings.store_uri}/evaluations/samples/{drawn}"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000_0.png").write_text("png")
    manifest = open_store(settings.store_uri).publish_folder(tmp_path / "images", side.uri, {})
    second = evaluate(project, settings, champion)
    assert drawn not in {side.path.split("/")[1] for side in second.side_outputs}
    found = next(item for item in second.inputs if item.alias == drawn)
    assert found.content_digest == manifest.content_digest
    assert second.job_id == first.job_id


def test_a_version_of_another_base_is_refused(project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match="words version 3 was trained on base 0000"):
        evaluate(project, settings, make_version(project, "d", version=3, base_digest="0" * 64))


def test_a_prompt_asked_twice_is_refused_before_anything_is_submitted(project: Project, settings: Settings) -> None:
    Path(project.evaluation.prompts).write_text("prompt\tcategory\na circle\tshape\na dot\tshape\nA circle.\tshape\n")
    with pytest.raises(ValueError, match=r"prompts.tsv has 1 repeated prompts.*'a circle' on lines 2, 4"):
        evaluate(project, settings)
    covering = project.model_copy(update={"coverage": CoverageSection(judge="taste")})
    with pytest.raises(ValueError, match="more than once"):
        coverage_request(covering, settings, candidate=make_version(project, "c"), champion=None)


def test_a_base_or_judge_lacking_a_file_is_named(project: Project, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "guard" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"Judge .*guard is not complete, it lacks config\.json"):
        evaluate(project, settings)
    (tmp_path / "base" / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"Base model .* lacks unet/config\.json"):
        encode_request(project, settings, make_snapshot(), project.recipes()[0])


def test_aa_puts_the_champion_in_both_roles_on_twice_the_seeds(project: Project, settings: Settings) -> None:
    snapshot, champion = make_snapshot(), make_version(project, "d")
    given = {"snapshot_uri": snapshot.uri, "snapshot_digest": snapshot.content_digest}
    spec = EvalSpec.model_validate(aa_request(project, settings, champion=champion, **given).spec)
    own = project.evaluation.seeds
    assert spec.candidate == spec.champion
    assert spec.champion.weights_digest == "d" * 64
    assert spec.seeds[: len(own)] == own
    assert len(set(spec.seeds)) == 2 * len(own)
    spec = EvalSpec.model_validate(aa_request(project, settings, champion=None, **given).spec)
    assert (spec.candidate.kind, spec.champion.kind) == ("base", "base")


def with_coverage(project: Project, judge: str) -> Project:
    section = f'[coverage]\njudge = "{judge}"\nnum_prompts = 2\nnum_samples = 3\n'
    project.path.write_text(PROJECT + section)
    return load_project(project.path)


def test_coverage_asks_one_judge_about_many_images_of_few_prompts(project: Project, settings: Settings) -> None:
    judged = with_coverage(project, project.evaluation.judges[0].name)
    champion = make_version(project, "a", version=3)
    request = coverage_request(judged, settings, candidate=make_version(project, "c"), champion=champion)
    spec = CoverageSpec.model_validate(request.spec)
    assert (spec.num_prompts, spec.seeds, spec.bar) == (2, (0, 1, 2), 0.75)
    assert (spec.candidate.weights_digest, spec.champion.weights_digest) == ("c" * 64, "a" * 64)
    assert {spec.base_digest, spec.prompts_digest, spec.judge.weights_digest} <= set(names(request))
    assert len(request.side_outputs) == 3
    assert request.output_uri == f"{settings.store_uri}/evaluations/{spec.digest}"


def test_coverage_needs_its_section_and_a_judge_that_exists(project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"no \[coverage\]\. Add it with judge = NAME"):
        coverage_request(project, settings, candidate=make_version(project, "c"), champion=None)
    with pytest.raises(ValueError, match=r"Unknown judge 'jugde'"):
        with_coverage(project, "jugde")


def test_coverage_is_not_asked_of_a_scorer_of_whole_prompts(project: Project) -> None:
    guard = '[[evaluation.guards]]\nname = "variety"\nuri = "guard"\nscorer = { kind = "diversity" }\n'
    text = PROJECT.replace("[placement", f"{guard}[placement") + "variety = { margin = 0.1 }\n"
    project.path.write_text(text + '[coverage]\njudge = "variety"\n')
    with pytest.raises(ValueError, match="'variety' scores the images of a prompt together and can only guard"):
        load_project(project.path)


def with_captions(project: Project, section: str) -> Project:
    """The project with a [captions] section, and a captioner's folder beside it."""
    folder = project.path.parent / "captioner"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["BlipForConditionalGeneration"]}))
    for name in ("model.safetensors", "preprocessor_config.json", "vocab.txt"):
        (folder / name).write_text(name)
    project.path.write_text(f"{PROJECT}[captions]\n{section}\n[placement.caption]\nnum_processes = 3\n")
    return load_project(project.path)


def test_a_caption_job_takes_snapshot_and_captioner_and_answers_among_the_snapshots(
    project: Project, settings: Settings
) -> None:
    section = 'variant = "dcpo_h"\ncaptioner = "captioner"\nlevel = "strong"\nseed = 4\nprefix = "a"\nnum_beams = 2'
    project = with_captions(project, section)
    digest, _ = hash_folder(project.path.parent / "captioner")
    request = caption_request(project, settings, make_snapshot())
    spec = CaptionSpec.model_validate(request.spec)
    assert spec.method == HybridCaptions(
        captioner=Captioner(weights_digest=digest, prefix="a", num_beams=2),
        perturbation=Perturbation(level="strong", seed=4),
    )
    assert spec.snapshot == make_snapshot().model_copy(update={"uri": ""})
    assert request.output_uri == f"{settings.store_uri}/snapshots/{spec.digest}"
    assert (request.kind, request.placement.num_processes) == ("caption", 3)
    assert [(i.content_digest, i.manifest) for i in request.inputs] == [("5" * 64, True), (digest, False)]
    assert request.inputs[1].uri == str(project.path.parent / "captioner")


@pytest.mark.parametrize(
    ("section", "kind", "num_inputs"),
    [
        ('variant = "dcpo_c"\ncaptioner = "captioner"', "dcpo_c", 2),
        ('variant = "dcpo_p"\nlevel = "weak"', "dcpo_p", 1),
    ],
)
def test_each_variant_takes_what_it_needs(
    project: Project, settings: Settings, section: str, kind: str, num_inputs: int
) -> None:
    request = caption_request(with_captions(project, section), settings, make_snapshot())
    assert request.spec["method"]["kind"] == kind
    assert len(request.inputs) == num_inputs


def test_the_same_snapshot_elsewhere_is_captioned_once(project: Project, settings: Settings) -> None:
    project = with_captions(project, 'variant = "dcpo_p"\nlevel = "weak"')
    moved = make_snapshot().model_copy(update={"uri": "file:///elsewhere"})
    one, two = (caption_request(project, settings, snapshot) for snapshot in (make_snapshot(), moved))
    assert one.job_id == two.job_id


def test_a_guard_without_weights_brings_no_input(project: Project, settings: Settings) -> None:
    before = evaluate(project, settings)
    guard = '[[evaluation.guards]]\nname = "colour"\nscorer = { kind = "image_statistic", statistic = "saturation" }\n'
    project.path.write_text(project.path.read_text() + "colour = { margin = 0.1 }\n" + guard)
    request = evaluate(load_project(project.path), settings)
    assert names(request) == names(before)
    last = request.spec["guards"][-1]
    assert last["weights_digest"] == hashlib.sha256(b"").hexdigest()


def test_calibration_asks_every_judge_that_has_weights(project: Project, settings: Settings, tmp_path: Path) -> None:
    judge = '[[evaluation.judges]]\nname = "people"\nuri = "reward://people"\nscorer = { kind = "pal" }\n'
    project.path.write_text(PROJECT + REWARD + judge)
    both, snapshot = load_project(project.path), make_snapshot()
    before = calibrate_request(both, settings, snapshot)
    spec = CalibrationSpec.model_validate(before.spec)
    assert [own.name for own in spec.judges] == ["taste"], "nobody has trained the other yet"
    assert names(before) == [snapshot.content_digest, spec.judges[0].weights_digest]
    assert before.output_uri == f"{settings.store_uri}/calibrations/reports/{spec.digest}"
    register_judge(settings, tmp_path, "a")
    after = calibrate_request(both, settings, snapshot)
    assert [own["name"] for own in after.spec["judges"]] == ["taste", "people"]
    assert after.job_id != before.job_id
    empty = snapshot.model_copy(update={"num_pairs": {"train": 3, "calibration": 0, "test": 1}})
    with pytest.raises(ValueError, match=r"Raise \[snapshot\] calibration_share"):
        calibrate_request(both, settings, empty)
