"""The replay passes on recorded numbers, fails on wrong ones, and replays folders that are not in the repository."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent
VECTORS = HERE / "vectors"
LISTED = [
    (index.parent.name, case)
    for index in sorted(VECTORS.glob("*/index.json"))
    for entry in json.loads(index.read_text(encoding="utf-8"))["cases"]
    for case in [entry if isinstance(entry, str) else entry["case"]]
]


@pytest.fixture(scope="module")
def replay() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_replay", HERE / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_no_vector_is_unused() -> None:
    listed = {f"{method}/{case}" for method, case in LISTED}
    present = {path.relative_to(VECTORS).with_suffix("").as_posix() for path in VECTORS.glob("*/*")}
    assert present - {path.parent.name + "/index" for path in VECTORS.glob("*/index.json")} == listed
    assert len(listed) >= 8


@pytest.mark.parametrize(("method", "case"), LISTED)
def test_recorded_numbers_replay(replay: ModuleType, method: str, case: str) -> None:
    passed, line = replay.replay_case(VECTORS / method, case)
    assert passed, line
    assert line.startswith(f"PASS {method}/{case} (")


WRONG_BY_A_HUNDREDTH = [
    ("diffusion_dpo", "loss_eps_b1_beta5000_realistic", "inside_term"),
    ("diffusion_dpo", "loss_eps_b1_beta5000_realistic", "grad_model_pred"),
    ("diffusion_dpo", "loss_eps_b1_beta5000_realistic", "noisy_latents"),
    ("diffusion_dpo_diffusers", "v_sigmoid_beta100_random", "target"),
    ("diffusion_dpo", "pair_order_labels", "pixel_values"),
    ("diffusion_dpo", "batchprep_sd15", "noise"),
    ("diffusion_dpo", "ai_feedback_pickscore_n4", "probs"),
    ("diffusion_dpo", "pair_order_aif", "pixel_values"),
    ("dcpo", "loss_eps_b1_beta500_realistic", "grad_model_pred"),
    ("mapo", "loss_eps_b1_default", "grad_model_pred"),
    ("prdp", "loss_b4_t10_partly_clipped", "grad_log_probs_official_f64"),
    ("prdp", "logprob_v_50steps", "posterior_mean_f64"),
    ("prdp", "logprob_eps_20steps", "x_prev"),
    ("mapo", "loss_v_b3_default", "ratio_losses"),
    ("mapo", "loss_v_b3_default", "stable_ratio_losses_f64"),
    ("mapo", "loss_eps_b2_zero_error_nan", "stable_ratio_losses_f64"),
    ("mapo", "loss_eps_b2_tiny_error_cancellation", "stable_ratio_losses_f64"),
]
WRONG_BY_A_THOUSANDTH = [
    ("pal", "pal_a_text_fPw_k2_cumulative", "y_hat"),
    ("pal", "pal_a_text_fPw_k2_cumulative", "grad.user_learner.P"),
    ("pal", "pal_a_pooled_Pw_k2", "u_prime"),
    ("pal", "t2i_pal_b_dist_logistic_k2", "y_hat"),
    ("pal", "t2i_pal_b_dist_logistic_k2", "grad.logit_scale"),
    ("pal", "t2i_pal_b_dist_hinge_k2_bound_active", "grad.user_learner.W.u1"),
    ("pal", "t2i_fewshot_new_users_k3", "W_step3"),
    ("model_soups", "n8_coarse_many_ties", "greedy.head.weight"),
    ("model_soups", "n8_coarse_many_ties", "candidate_accuracy_trace"),
    ("model_soups", "n8_coarse_many_ties", "individual_accuracy"),
    ("model_soups", "n5_int_buffer", "uniform.head.bias"),
]


def replayed_wrong(
    replay: ModuleType, folder: Path, case: str, field: str, change: float, *, at: int = -1
) -> tuple[bool | None, str]:
    """Replay a case after changing the value at a place of a field."""
    shutil.copytree(VECTORS / folder.name, folder)
    tensors = load_file(folder / f"{case}.safetensors")
    tensors[field] = tensors[field].clone()
    tensors[field].view(-1)[at] += change
    save_file(tensors, folder / f"{case}.safetensors")
    outcome: tuple[bool | None, str] = replay.replay_case(folder, case)
    return outcome


@pytest.mark.parametrize(("method", "case", "field"), WRONG_BY_A_HUNDREDTH)
def test_a_wrong_number_fails(replay: ModuleType, tmp_path: Path, method: str, case: str, field: str) -> None:
    passed, line = replayed_wrong(replay, tmp_path / method, case, field, 0.01)
    assert not passed
    assert line.startswith(f"FAIL {method}/{case}")


@pytest.mark.parametrize(("method", "case", "field"), WRONG_BY_A_THOUSANDTH)
def test_a_wrong_number_is_named(replay: ModuleType, tmp_path: Path, method: str, case: str, field: str) -> None:
    passed, line = replayed_wrong(replay, tmp_path / method, case, field, 0.001)
    assert not passed
    assert field in line


@pytest.mark.parametrize(
    ("method", "case", "field"),
    [
        ("diffusion_dpo", "ai_feedback_pickscore_n2", "flip"),
        ("dcpo", "pair_order_labels", "tokens_0"),
        ("dcpo", "pair_order_aif", "encoder_input_ids"),
    ],
)
def test_a_wrong_choice_fails(replay: ModuleType, tmp_path: Path, method: str, case: str, field: str) -> None:
    assert not replayed_wrong(replay, tmp_path / method, case, field, 1, at=0)[0]


@pytest.mark.parametrize(
    ("case", "file", "field"),
    [
        ("aesthetic_laion_v1", "outputs", "vit_l_14_rating_anchor_y"),
        ("aesthetic_laion_v1", "weights", "vit_b_32.weight"),
        ("hpsv3", "outputs", "vision"),
        ("hpsv3", "outputs", "reward_single"),
        ("hpsv3", "weights", "rm_head.5.bias"),
        ("hpsv3", "inputs", "pixel_values"),
    ],
)
def test_a_wrong_number_of_a_judge_fails(replay: ModuleType, tmp_path: Path, case: str, file: str, field: str) -> None:
    folder = tmp_path / "rewards"
    shutil.copytree(VECTORS / "rewards", folder)
    path = folder / case / f"{file}.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors[field].view(-1)[0] += 0.05
    save_file(tensors, path)
    passed, line = replay.replay_case(folder, case)
    assert passed is False, line


def test_a_wrong_agreement_fails(replay: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "rewards"
    shutil.copytree(VECTORS / "rewards", folder)
    path = folder / "ranking_agreement" / "case.json"
    for field in ("imagereward_acc", "mps_inversion_mean"):
        content = json.loads((VECTORS / "rewards" / "ranking_agreement" / "case.json").read_text())
        content["results"][field] += 1e-9
        path.write_text(json.dumps(content))
        passed, line = replay.replay_case(folder, "ranking_agreement")
        assert passed is False
        assert field in line


def test_a_wrong_order_or_choice_fails(replay: ModuleType, tmp_path: Path) -> None:
    for field in ("sorted_order", "ingredients_exact_comparison", "ingredients"):
        folder = tmp_path / field / "model_soups"
        shutil.copytree(VECTORS / "model_soups", folder)
        tensors = load_file(folder / "n8_coarse_many_ties.safetensors")
        tensors[field] = tensors[field].flip(0)
        save_file(tensors, folder / "n8_coarse_many_ties.safetensors")
        assert not replay.replay_case(folder, "n8_coarse_many_ties")[0]


def write_case(folder: Path, name: str, params: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a recorded case whose fields are all arrays."""
    folder.mkdir(exist_ok=True)
    tensors = {field: value.detach().clone().contiguous() for field, value in tensors.items()}
    fields = {
        field: {"role": "input", "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for field, value in tensors.items()
    }
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"params": params, "fields": fields}))


@pytest.mark.parametrize("size", [1.0, 30.0, 1e-2, 1e-3, 0.0])
def test_unseen_mapo_cases_replay_with_any_rounding_of_the_recorded_code(
    replay: ModuleType, tmp_path: Path, size: float
) -> None:
    """The published code in float32, with errors of many sizes and other parameters."""
    generator = torch.Generator().manual_seed(int(size * 1000))
    target = torch.randn(6, 3, 5, 2, generator=generator)
    prediction = (target + size * torch.randn(target.shape, generator=generator)).requires_grad_(True)
    beta, snr, steps = 0.3, 0.8, 500

    def lines(errors: Tensor, score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        chosen, rejected = errors.chunk(2)
        ratio = beta * torch.nn.functional.logsigmoid(steps * (score(chosen) - score(rejected)))
        found = {"model_losses_w": chosen, "model_losses_l": rejected, "ratio_losses": ratio}
        return found | {"loss": chosen.mean() - ratio.mean(), "win_score": score(chosen).mean()}

    errors = (prediction - target).square().flatten(1).mean(dim=1)
    official = lines(errors, lambda e: snr * e / (torch.exp(snr * e) - 1))
    (gradient,) = torch.autograd.grad(official["loss"], prediction)
    exact = lines(
        errors.double(),
        lambda e: torch.where(e > 0, snr * e.clamp_min(1e-30) / torch.expm1(snr * e.clamp_min(1e-30)), 1),
    )
    tensors = official | {"model_pred": prediction, "target": target, "grad_model_pred": gradient}
    tensors |= {"stable_loss_f64": exact["loss"], "stable_ratio_losses_f64": exact["ratio_losses"]}
    params = {"beta_mapo": beta, "snr_value": snr, "num_train_timesteps": steps}
    write_case(tmp_path / "mapo", "unseen", params, tensors)
    passed, line = replay.replay_case(tmp_path / "mapo", "unseen")
    assert passed, line
    write_case(tmp_path / "mapo", "unseen", params, tensors | {"stable_loss_f64": exact["loss"] * 1.001})
    assert not replay.replay_case(tmp_path / "mapo", "unseen")[0]


def test_command_line_counts_cases_and_sets_the_exit_code(
    replay: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(VECTORS / "diffusion_dpo", tmp_path / "good" / "diffusion_dpo")
    assert replay.main([str(tmp_path / "good")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed")
    method = tmp_path / "good" / "dream"
    method.mkdir()
    (method / "index.json").write_text(json.dumps({"cases": ["first", {"case": "second"}]}))
    (method / "first.json").write_text(json.dumps({"params": {}, "fields": {"vision": {}, "awake": {}}}))
    assert replay.main([str(tmp_path / "good")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "NOT BUILT dream/first (no replay takes awake, vision)" in lines
    assert any(line.startswith("FAIL dream/second (FileNotFoundError") for line in lines)
    assert lines[-1].endswith(" passed, 2 failed")
    assert replay.main([str(tmp_path / "nowhere")]) == 2


def test_an_unseen_case_with_another_shape_replays(replay: ModuleType, tmp_path: Path) -> None:
    """Five pairs of 2x3 latents with three channels and another beta; values are computed here in float64."""
    generator = torch.Generator().manual_seed(1)
    policy, reference, target = torch.randn(3, 10, 3, 2, 3, generator=generator, dtype=torch.float64)
    policy_w, policy_l = (policy - target).square().mean(dim=(1, 2, 3)).chunk(2)
    reference_w, reference_l = (reference - target).square().mean(dim=(1, 2, 3)).chunk(2)
    inside = -0.5 * 3.0 * ((policy_w - policy_l) - (reference_w - reference_l))
    tensors = {"model_pred": policy, "ref_pred": reference, "target": target, "inside_term": inside}
    tensors = {name: value.float().contiguous() for name, value in tensors.items()}
    loss = -torch.nn.functional.logsigmoid(inside).mean().item()
    folder = tmp_path / "diffusion_dpo"
    folder.mkdir()
    fields = {
        name: {"role": "output" if name == "inside_term" else "input", "shape": list(value.shape), "dtype": "float32"}
        for name, value in tensors.items()
    }
    fields["loss"] = {"role": "output", "shape": [], "dtype": "float32", "value": loss}
    save_file(tensors, folder / "unseen.safetensors")
    (folder / "unseen.json").write_text(json.dumps({"params": {"beta_dpo": 3.0}, "fields": fields}))
    assert replay.replay_case(folder, "unseen") == (True, "PASS diffusion_dpo/unseen (2 checks)")
    fields["loss"]["value"] = loss + 1e-3
    (folder / "unseen.json").write_text(json.dumps({"params": {"beta_dpo": 3.0}, "fields": fields}))
    assert not replay.replay_case(folder, "unseen")[0]


class _OppositeTexts:
    """A CLIP whose first two texts, and first two images, point in opposite directions."""

    def embed_texts(self, texts: list[str]) -> Tensor:
        assert len(texts) == 2
        return torch.tensor([[1.0, 0.0], [-0.6, 0.8]])

    embed_images = embed_texts


def test_the_mean_clip_score_of_unlike_texts_or_images_is_recorded_as_zero(replay: ModuleType) -> None:
    """The published metric clamps the mean at 0, also for two texts or two images; our cosines stay negative."""
    from recorded import Case
    from replays.clipscore import _expect_alike

    fields = {name: {"shape": [], "value": 0.0} for name in ("outputs.text_text", "outputs.image_image")}
    case = Case("rewards", "unlike", {}, fields, {})
    _expect_alike(case, _OppositeTexts(), ["a", "b"], ["a", "b"], 1e-3)
    assert len(case.checked) == 2
    assert not case.wrong
    assert len(case.remarks) == 2
    fields["outputs.text_text"]["value"] = -60.0
    _expect_alike(case, _OppositeTexts(), ["a", "b"], ["a", "b"], 1e-3)
    assert len(case.wrong) == 1


@pytest.mark.parametrize("offset", [0.0, 5e-13])
def test_cases_without_any_error_replay_up_to_1e_12(replay: ModuleType, tmp_path: Path, offset: float) -> None:
    """Predictions equal to the target: every recorded number but the loss is 0 or the rounding of it."""
    target = torch.ones(4, 2, 3, 3)
    nothing, still = torch.full((2,), offset), torch.full_like(target, offset)
    tensors = {"model_pred": target, "ref_pred": target, "target": target, "grad_model_pred": still}
    tensors |= dict.fromkeys(("inside_term", "model_diff", "ref_diff", "model_losses_w", "ref_losses_l"), nothing)
    tensors |= {"loss": torch.tensor(2.0).log()}
    write_case(tmp_path / "diffusion_dpo", "still", {"beta_dpo": 5000.0}, tensors)
    passed, line = replay.replay_case(tmp_path / "diffusion_dpo", "still")
    assert passed, line
    off = tensors | {"inside_term": nothing + 1e-9}
    write_case(tmp_path / "diffusion_dpo", "still", {"beta_dpo": 5000.0}, off)
    assert not replay.replay_case(tmp_path / "diffusion_dpo", "still")[0]
    sft = {"model_pred": target, "target": target, "loss": nothing[0], "grad_model_pred": still}
    write_case(tmp_path / "sft", "still", {}, sft)
    passed, line = replay.replay_case(tmp_path / "sft", "still")
    assert passed, line


def test_a_case_in_a_separate_folder_is_read(replay: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "dream"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "case.json").write_text(json.dumps({"settings": {"depth": 3}}))
    save_file({"image": torch.ones(2)}, folder / "deep" / "inputs.safetensors")
    case = replay.read_case(folder, "deep")
    assert case.params["settings"]["depth"] == 3
    assert case["inputs.image"].tolist() == [1.0, 1.0]
    assert replay.replay_case(folder, "deep") == (False, "NOT BUILT dream/deep (no replay takes inputs.image)")


@pytest.mark.parametrize(
    "content",
    [
        {"csv_rows": [], "items": []},
        {"scores": [[0.5]], "skills": [["count"]], "atom_count": [1]},
        {"classes": [], "colours": [], "relations": [], "iou": [], "summary": {}},
    ],
)
def test_unsupported_methods_are_reported_separately_from_failures(
    replay: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, object]
) -> None:
    shutil.copytree(VECTORS / "diffusion_dpo", tmp_path / "diffusion_dpo")
    other = tmp_path / "rewards" / "one_more"
    other.mkdir(parents=True)
    (other / "case.json").write_text(json.dumps(content))
    (tmp_path / "rewards" / "index.json").write_text(json.dumps({"cases": [{"case": "one_more"}]}))
    passed, line = replay.replay_case(tmp_path / "rewards", "one_more")
    assert passed is None
    assert line.startswith("UNSUPPORTED rewards/one_more (")
    assert replay.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed, 1 not supported")
    assert replay.main([str(tmp_path / "rewards")]) == 1


def test_a_case_that_two_files_take_fails(replay: ModuleType, tmp_path: Path) -> None:
    fields = {name: {"shape": [1], "dtype": "float32", "value": [0.0]} for name in ("model_pred", "ref_pred", "left")}
    needed = ("individual_accuracy", "eval_x", "eval_y", "ingredients")
    fields |= {name: {"shape": [1], "dtype": "float32", "value": [0.0]} for name in needed}
    (tmp_path / "both.json").write_text(json.dumps({"params": {}, "fields": fields}))
    passed, line = replay.replay_case(tmp_path, "both")
    assert not passed
    assert "taken by replays.dpo_loss, replays.model_soups" in line


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unseen_prdp_cases_replay_with_few_fields(replay: ModuleType, tmp_path: Path, seed: int) -> None:
    """Seven images of nine steps, some tied; only the float64 loss and gradient of the listing are recorded."""
    generator = torch.Generator().manual_seed(seed)
    reference, shift, moved = torch.randn(3, 7, 9, generator=generator, dtype=torch.float64)
    old, now = reference + 0.05 * shift, (reference + 0.05 * shift + 0.02 * moved).requires_grad_(True)
    rewards = torch.randint(4, (7,), generator=generator).double()
    ratio, ratio_old = now - reference, old - reference
    clipped = ratio.clamp(ratio_old - 0.01, ratio_old + 0.01)
    wanted = (rewards[:, None] - rewards[None, :]) / 0.5
    squares = [(t.mean(dim=1)[:, None] - t.mean(dim=1)[None, :] - wanted).square() for t in (ratio, clipped)]
    loss = torch.maximum(*squares)[rewards[:, None] > rewards[None, :]].mean()
    (gradient,) = torch.autograd.grad(loss, now)
    tensors = {"log_probs": now, "log_probs_old": old, "log_probs_ref": reference, "rewards": rewards}
    outputs = {"loss_official_f64": loss.reshape(1), "grad_log_probs_official_f64": gradient}
    params = {"clip_range": 0.01, "kl_weight": 0.5}
    write_case(tmp_path / "prdp", "unseen", params, tensors | outputs)
    passed, line = replay.replay_case(tmp_path / "prdp", "unseen")
    assert passed, line
    wrong = outputs | {"loss_official_f64": outputs["loss_official_f64"] * (1 + 1e-8)}
    write_case(tmp_path / "prdp", "unseen", params, tensors | wrong)
    assert not replay.replay_case(tmp_path / "prdp", "unseen")[0]


def test_an_unseen_kind_of_pal_replays(replay: ModuleType, tmp_path: Path) -> None:
    # Found once `replay` is loaded, which puts this folder on sys.path.
    from unseen_cases import unseen_pal

    params, tensors = unseen_pal(seed=3)
    write_case(tmp_path / "pal", "unseen", params, tensors)
    passed, line = replay.replay_case(tmp_path / "pal", "unseen")
    assert passed, line
    write_case(tmp_path / "pal", "unseen", params, tensors | {"loss": tensors["loss"] + 1e-3})
    assert not replay.replay_case(tmp_path / "pal", "unseen")[0]


@pytest.mark.parametrize("seed", range(8))
def test_unseen_soups_in_half_precision_replay(replay: ModuleType, tmp_path: Path, seed: int) -> None:
    from unseen_cases import unseen_soup

    fields = unseen_soup(seed)
    write_case(tmp_path / "model_soups", "unseen", {"dtype": "float16"}, fields)
    passed, line = replay.replay_case(tmp_path / "model_soups", "unseen")
    assert passed, line
    wrong = fields | {"greedy.head.weight": fields["greedy.head.weight"] + 0.01}
    write_case(tmp_path / "model_soups", "unseen", {"dtype": "float16"}, wrong)
    assert not replay.replay_case(tmp_path / "model_soups", "unseen")[0]


@pytest.mark.parametrize("seed", range(8))
def test_a_soup_from_rounded_scores_replays(replay: ModuleType, tmp_path: Path, seed: int) -> None:
    """The order, too, comes from the scores as they were read: rounded ones tie where exact ones do not."""
    from unseen_cases import rounded_soup

    fields = rounded_soup(seed)
    write_case(tmp_path / "model_soups", "rounded", {"dtype": "float32"}, fields)
    passed, line = replay.replay_case(tmp_path / "model_soups", "rounded")
    assert passed, line
    wrong = fields | {"sorted_order": fields["sorted_order"].flip(0)}
    write_case(tmp_path / "model_soups", "rounded", {"dtype": "float32"}, wrong)
    assert not replay.replay_case(tmp_path / "model_soups", "rounded")[0]
