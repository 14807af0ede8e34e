"""Replays of reward models and soups fail on wrong numbers and replay cases that are not in the repository."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent
VECTORS = HERE / "vectors"


@pytest.fixture(scope="module")
def replay() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_replay", HERE / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("method", "case", "field"),
    [
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
    ],
)
def test_a_wrong_number_fails(replay: ModuleType, tmp_path: Path, method: str, case: str, field: str) -> None:
    folder = tmp_path / method
    shutil.copytree(VECTORS / method, folder)
    tensors = load_file(folder / f"{case}.safetensors")
    tensors[field] = tensors[field].clone()
    tensors[field].view(-1)[-1] += 0.001
    save_file(tensors, folder / f"{case}.safetensors")
    passed, line = replay.replay_case(folder, case)
    assert not passed
    assert field in line


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
    kept = {field: value.detach().clone().contiguous() for field, value in tensors.items()}
    save_file(kept, folder / f"{name}.safetensors")
    fields = {
        field: {"role": "input", "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for field, value in kept.items()
    }
    (folder / f"{name}.json").write_text(json.dumps({"params": params, "fields": fields}))


def unseen_pal(seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PAL-B between unit vectors with four prototypes and all weight on the largest one, computed here in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def project(name: str, inputs: Tensor) -> Tensor:
        for index in (0, 3):
            weight, bias = draw(5, inputs.shape[1]) / 3, draw(5)
            tensors[f"weight.{name}.mlp.layers.{index}.weight"] = weight
            tensors[f"weight.{name}.mlp.layers.{index}.bias"] = bias
            inputs = inputs @ weight.T + bias
            inputs = inputs.relu() if index == 0 else inputs
        return inputs

    tensors: dict[str, Tensor] = {
        "weight.logit_scale": torch.tensor(2.0),
        "weight.softmax_w.temperature": torch.ones(1),
    }
    left, right, prompt = draw(7, 6), draw(7, 6), draw(7, 6)
    users, logits = torch.tensor([0, 1, 2, 0, 1, 2, 0]), draw(3, 4)
    items = project("projector_f", torch.cat([left, right]))
    views = torch.stack([project(f"user_learner.projectors.{k}", prompt) for k in range(4)], dim=1)
    point = views[torch.arange(7), logits[users].argmax(dim=1)]
    unit_left, unit_right, unit_point = (x / x.norm(dim=1, keepdim=True) for x in (*items.chunk(2), point))
    difference = (unit_left - unit_point).norm(dim=1) - (unit_right - unit_point).norm(dim=1)
    sign = torch.tensor([1, -1, 1, 1, -1, -1, 1])
    tensors |= {"left_embeds": left, "right_embeds": right, "prompt_embeds": prompt, "u_prime": point}
    tensors |= {"y_hat": difference, "loss": (1 - sign * difference).relu().mean()}
    tensors |= {
        "accuracy": (sign * difference > 0).double().mean(),
        "bound_loss": (point.norm(dim=1) - 0.5).relu().sum(),
    }
    tensors |= {f"weight.user_learner.W.u{index}": logits[index] for index in range(3)}
    params = {"variant": "PAL-B t2i", "pref_learner_type": "dist_normalization", "K": 4, "d": 5, "loss_type": "hinge"}
    params |= {"proj_arch": "mlp1-relu-dropout25", "upper_bound": 0.5, "lmd": 1.0, "is_partition": True, "n_users": 3}
    floats = {name: value.float() for name, value in tensors.items()}
    return params, floats | {"user_index": users, "y": sign}


def test_an_unseen_kind_of_pal_replays(replay: ModuleType, tmp_path: Path) -> None:
    params, tensors = unseen_pal(seed=3)
    write_case(tmp_path / "pal", "unseen", params, tensors)
    passed, line = replay.replay_case(tmp_path / "pal", "unseen")
    assert passed, line
    write_case(tmp_path / "pal", "unseen", params, tensors | {"loss": tensors["loss"] + 1e-3})
    assert not replay.replay_case(tmp_path / "pal", "unseen")[0]


def unseen_soup(seed: int) -> dict[str, Tensor]:
    """Five models in float16, averaged one after the other, with every sum rounded to float16."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(150, 4, generator=generator)
    truth = torch.randn(3, 4, generator=generator)
    labels = (inputs @ truth.T).argmax(dim=1)
    models = [(truth + 1.5 * torch.randn(3, 4, generator=generator)).half() for _ in range(5)]
    bias = torch.zeros(3).half()

    def accuracy(weight: Tensor) -> float:
        return ((inputs @ weight.float().T).argmax(dim=1) == labels).double().mean().item()

    alone = [accuracy(model) for model in models]
    order = sorted(range(5), key=lambda index: (alone[index], index), reverse=True)
    soup, kept, best, trace = models[order[0]], [order[0]], alone[order[0]], []
    for index in order[1:]:
        candidate = (soup * (len(kept) / (len(kept) + 1)) + models[index] * (1 / (len(kept) + 1))).half()
        trace.append(accuracy(candidate))
        if trace[-1] > best:
            soup, best = candidate, trace[-1]
            kept.append(index)
    uniform = torch.stack([model / 5 for model in models]).sum(dim=0).half()
    fields = {"individual_accuracy": torch.tensor(alone, dtype=torch.float64), "eval_x": inputs, "eval_y": labels}
    fields |= {"sorted_order": torch.tensor(order), "ingredients": torch.tensor(kept)}
    fields |= {"candidate_accuracy_trace": torch.tensor(trace, dtype=torch.float64)}
    fields |= {"uniform.head.weight": uniform, "greedy.head.weight": soup}
    for index, model in enumerate(models):
        fields |= {f"model{index}.head.weight": model, f"model{index}.head.bias": bias}
    return fields


@pytest.mark.parametrize("seed", range(8))
def test_unseen_soups_in_half_precision_replay(replay: ModuleType, tmp_path: Path, seed: int) -> None:
    fields = unseen_soup(seed)
    write_case(tmp_path / "model_soups", "unseen", {"dtype": "float16"}, fields)
    passed, line = replay.replay_case(tmp_path / "model_soups", "unseen")
    assert passed, line
    wrong = fields | {"greedy.head.weight": fields["greedy.head.weight"] + 0.01}
    write_case(tmp_path / "model_soups", "unseen", {"dtype": "float16"}, wrong)
    assert not replay.replay_case(tmp_path / "model_soups", "unseen")[0]
