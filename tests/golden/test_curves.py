"""Today's code draws the recorded curves; and no recorded curve is forgotten."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from alignment.objectives.catalogue import OBJECTIVES

HERE = Path(__file__).parent
CURVES = sorted((HERE / "curves").glob("*.json"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorder() -> ModuleType:
    return load("record")


def test_every_case_has_a_file_and_every_file_a_case(recorder: ModuleType) -> None:
    assert {path.stem for path in CURVES} == set(recorder.CASES)
    covered = {params.name for params, _ in recorder.CASES.values()}
    assert covered == {cls.model_fields["name"].default for cls in OBJECTIVES}


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.stem)
def test_curve_is_the_recorded_one(recorder: ModuleType, path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    now = recorder.record(path.stem)
    assert now["objective"] == golden["objective"]
    assert now["prediction_type"] == golden["prediction_type"]
    assert set(now["metrics"]) == set(golden["metrics"])
    for name, values in golden["metrics"].items():
        assert len(values) == recorder.STEPS
        assert now["metrics"][name] == pytest.approx(values, rel=1e-4, abs=2e-5), name


def test_objectives_move_their_errors_the_right_way() -> None:
    curves = {path.stem: json.loads(path.read_text(encoding="utf-8"))["metrics"] for path in CURVES}
    for name in ("dcpo", *(name for name in curves if name.startswith("diffusion_dpo"))):
        assert curves[name]["margin"][0] == pytest.approx(0.0, abs=1e-6)
        assert sum(curves[name]["margin"][-5:]) > 0, name
    for name in ("mapo", "mapo_paper"):
        assert sum(curves[name]["margin"][-5:]) > sum(curves[name]["margin"][:5]), name
        assert "chosen_error_minus_reference" not in curves[name], "there is no reference to compare with"
    assert curves["dcpo"]["loss"] != curves["diffusion_dpo"]["loss"]
    losses = curves["prdp"]["loss"]
    assert all(after < before for before, after in zip(losses[::2], losses[1::2], strict=True)), "on the same images"
    assert curves["prdp"]["margin"][0] == 0.0
    assert sum(curves["sft"]["chosen_error"][-5:]) < sum(curves["sft"]["chosen_error"][:5])


def test_prdp_raises_an_easy_reward_on_noise_that_no_update_has_seen(recorder: ModuleType) -> None:
    """What single steps cannot show: the sign and the credit of each step are right over many epochs of two updates."""
    params, prediction_type = recorder.CASES["prdp"]
    params = params.model_copy(update={"images_per_prompt": 16})
    schedule = recorder.schedule_named(prediction_type)
    policy, reference = recorder.TinyDenoiser(), recorder.TinyDenoiser().requires_grad_(False)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0)

    def first_channel(latents_BCHW: torch.Tensor) -> torch.Tensor:
        return latents_BCHW[:, 0].flatten(1).mean(dim=1)

    gradient = recorder.online_gradient(params, schedule, policy, reference, reward=first_channel)
    unseen = first_channel(recorder.draw(params, schedule, policy, reference, epoch=1000)[1])
    for number in range(20):
        gradient(number)
        optimiser.step()
        optimiser.zero_grad()
    gains = first_channel(recorder.draw(params, schedule, policy, reference, epoch=1000)[1]) - unseen
    assert bool((gains > 0).all()), "from the same noise every image has more of the reward"
    assert gains.mean() > unseen.std() / 3
