"""The code reproduces the recorded curves, and every recorded curve is tested."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from alignment.catalogues.objectives import OBJECTIVES

HERE = Path(__file__).parent
CURVES = sorted((HERE / "curves").glob("*.json"))
NUM_VALUES = 4 * 8 * 8
LARGEST_LOG_PROBABILITY = 2.0


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


def tolerances(golden: dict[str, Any], rounding: Callable[[int, float], float], *, num_pairs: int) -> dict[str, float]:
    """Return the largest difference of each metric that rounding explains, so that a curve holds on every processor.

    An error is a mean over 4 * 8 * 8 = 256 squares, about 2 in size. On another processor it differs by up to
    r = sqrt(256) * 2^-23 * 2 = 4e-6 (`rounding_of_mean`), and its difference to the reference's error by sqrt(2) * r.
    A margin is a function of the errors, and a loss is a function of the margin; each differs by its slope times r, and
    a mean over the pairs divides this by sqrt(num_pairs). At beta 200 that is 200 * 4e-6 / sqrt(6) = 3e-4 for the
    margin of Diffusion-DPO. Measured with SSE4 and AVX2 kernels against a recording with AVX-512: errors 1.3e-6,
    margins 4e-5. These figures include the drift of the weights over 20 steps.
    """
    metrics, params = golden["metrics"], golden["objective"]
    if params["name"] == "prdp":
        return prdp_tolerances(metrics, params, rounding)
    error = rounding(NUM_VALUES, max(*metrics["chosen_error"], *metrics["rejected_error"]))
    slope = margin_slope(params)
    loss_slope = {"mapo": 1 + params.get("beta", 0) * slope, "mapo_paper": 1 + slope / params.get("beta", 1), "sft": 1}
    # (margin - 1/2)^2 has the slope 2 sqrt(loss), which is largest at the largest loss.
    link_slope = 2 * math.sqrt(max(metrics["loss"])) if params.get("link") == "ipo" else 1.0
    return {
        "chosen_error": error,
        "rejected_error": error,
        "chosen_error_minus_reference": math.sqrt(2) * error,
        "rejected_error_minus_reference": math.sqrt(2) * error,
        "margin": slope * error / math.sqrt(num_pairs),
        "loss": loss_slope.get(params["name"], link_slope * slope) * error / math.sqrt(num_pairs),
        "implicit_accuracy": 0.0,
    }


def margin_slope(params: dict[str, Any]) -> float:
    """Return the change of a margin from independent changes of its errors, in units of the change of one error.

    Diffusion-DPO and DCPO: beta / 2 times four errors. SFT: a difference of two. MaPO: T times a difference of
    phi(s m), whose slope is at most 1/2. The paper's MaPO: a difference of phi(m)^beta, with slope at most beta / 2.
    """
    slopes = {
        "sft": math.sqrt(2),
        "mapo": params.get("num_train_timesteps", 0) * params.get("snr_value", 0) / 2 * math.sqrt(2),
        "mapo_paper": params.get("beta", 0) / 2 * math.sqrt(2),
    }
    return slopes.get(params["name"], params.get("beta", 0) / 2 * math.sqrt(4))


def prdp_tolerances(
    metrics: dict[str, list[float]], params: dict[str, Any], rounding: Callable[[int, float], float]
) -> dict[str, float]:
    """Return the tolerances for PRDP.

    A reward is minus the logarithm of a mean over 4 * 8 * 7 squares, so it differs by that mean's relative rounding,
    and by the same amount for each denoising step that generated the image. A log-probability is a mean over 256
    values, at most 2 in size. Guidance g weights two predictions by g and g - 1, hence their rounding by
    sqrt(g^2 + (g - 1)^2). A log-ratio is the difference of two log-probabilities, a margin the difference of two
    log-ratios: 1.7e-5 at g = 2; 8e-6 was measured. A residual is a margin minus a difference of two rewards over beta,
    and a loss is the square of a residual.
    """
    reward = math.sqrt(1 + params["sampler_steps"]) * rounding(NUM_VALUES, 1.0)
    guided = math.hypot(params["guidance_scale"], params["guidance_scale"] - 1)
    margin = math.sqrt(4) * guided * rounding(NUM_VALUES, LARGEST_LOG_PROBABILITY)
    residual = margin + math.sqrt(2) * reward / params["beta"]
    return {
        "reward": reward,
        "reward_spread": math.sqrt(2) * reward,
        "margin": margin,
        "residual": residual,
        "loss": 2 * max(metrics["residual"]) * residual,
        **dict.fromkeys(("clipped_share", "all_tied"), 0.0),
    }


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.stem)
def test_curve_equals_the_recorded_one(
    recorder: ModuleType, rounding: Callable[[int, float], float], path: Path
) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    now = recorder.record(path.stem)
    assert now["objective"] == golden["objective"]
    assert now["prediction_type"] == golden["prediction_type"]
    assert set(now["metrics"]) == set(golden["metrics"])
    allowed = tolerances(golden, rounding, num_pairs=recorder.PAIRS)
    assert math.prod(recorder.SHAPE) == NUM_VALUES
    for name, values in golden["metrics"].items():
        assert len(values) == recorder.STEPS
        # A count divided by its total is exact except for the rounding of the division.
        assert now["metrics"][name] == pytest.approx(values, rel=1e-6, abs=allowed[name]), name


def test_objectives_move_their_errors_in_the_right_direction() -> None:
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


def test_prdp_raises_an_easy_reward_on_unseen_noise(recorder: ModuleType) -> None:
    """Sign and credit of each step are right over many epochs of two updates, which single steps cannot show."""
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
    assert bool((gains > 0).all()), "from the same noise, every image has a higher reward"
    assert gains.mean() > unseen.std() / 3
