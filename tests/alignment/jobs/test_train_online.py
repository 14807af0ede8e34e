"""The train job on an online recipe: its output, interrupted anywhere, on two processes, given bad input."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from alignment.contracts.jobs import HEALTH, JobFailure, Placement
from alignment.contracts.training import TrainResult
from alignment.rewards.clip_preference import ClipPreferenceScorer
from alignment.training import loop

# The first test of a session pays for importing the model libraries and for encoding the cache.
pytestmark = pytest.mark.timeout(300)

QUIET = Placement(micro_batch=2, checkpoint_every_steps=1)
NOT_REPRODUCED = {"prompts_per_second", "gpu_memory_gib", "resident_memory_gib"}


def is_reproduced(metric: str) -> bool:
    return metric not in NOT_REPRODUCED and not metric.startswith(HEALTH)


def result_of(out: Path) -> TrainResult:
    return TrainResult.model_validate_json((out / "result.json").read_text())


def failure_of(out: Path) -> JobFailure:
    return JobFailure.model_validate_json((out / "failure.json").read_text())


def curve_of(out: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], {name: value for name, value in line["metrics"].items() if is_reproduced(name)})
        for line in lines
    ]


@pytest.fixture(scope="module")
def undisturbed(online_bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, three epochs, without interruption."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert online_bench.bench.train(out, online_bench.train_spec(), QUIET) == 0
    return out


@contextmanager
def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, what: type[BaseException] | None) -> Iterator[None]:
    """Raise `what` just after a step's metrics are written; None sends SIGTERM to ourselves instead."""
    honest = loop.append_metrics

    def append(out: Path, done: int, metrics: dict[str, float]) -> None:
        honest(out, done, metrics)
        if done == step and what is None:
            os.kill(os.getpid(), signal.SIGTERM)
        elif done == step and what is not None:
            raise what(f"stopped after step {done}")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "append_metrics", append)
        yield


def test_the_result_names_the_policys_training_sources(online_bench: Any, undisturbed: Path) -> None:
    result = result_of(undisturbed)
    reward = online_bench.data.reward
    assert result.trained_on == ("taste", f"scorer {reward.weights_digest}", "panel")
    assert (result.steps, result.num_pairs) == (6, 5)
    metrics = dict(curve_of(undisturbed))
    assert list(metrics) == [1, 2, 3, 4, 5, 6]
    assert {"residual", "reward", "reward_spread", "clipped_share", "all_tied"} <= set(metrics[1])
    assert "implicit_accuracy" not in metrics[1], "below one half on fresh images while a run succeeds"
    assert all("reward_gain" in line for line in metrics.values()), "six steps are each a tenth of the run or more"
    assert metrics[6]["reward_gain"] == result.final_metrics["reward_gain"] != 0
    assert metrics[1]["clipped_share"] == metrics[3]["clipped_share"] == 0
    assert metrics[2]["clipped_share"] > 0
    assert metrics[1]["reward"] == metrics[2]["reward"] != metrics[3]["reward"], "an epoch's images serve two updates"
    assert metrics[1]["margin"] == 0, "the policy begins as the reference"


def test_the_gain_is_logged_when_it_is_measured_and_disturbs_no_weight(
    online_bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without measurements, and whatever they draw from the global generator, the run is the same."""
    monkeypatch.setattr("alignment.training.online.is_measured", lambda done, steps: done in (3, 6))
    placement = QUIET.model_copy(update={"log_every_steps": 4})
    assert online_bench.bench.train(tmp_path / "out", online_bench.train_spec(), placement) == 0
    metrics = dict(curve_of(tmp_path / "out"))
    assert {step: "reward_gain" in line for step, line in metrics.items()} == {3: True, 4: False, 6: True}
    whole = dict(curve_of(undisturbed))
    assert metrics[3] == whole[3]
    assert metrics[6] == whole[6]
    assert result_of(tmp_path / "out").weights_digest == result_of(undisturbed).weights_digest


def test_checkpoints_are_taken_between_epochs_only(undisturbed: Path) -> None:
    assert sorted(path.name for path in (undisturbed / "checkpoints").iterdir()) == ["step_000002", "step_000004"]


@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_crash_after_any_step_and_resume(
    online_bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    out, spec = tmp_path / "out", online_bench.train_spec()
    with stop_after(monkeypatch, step, RuntimeError):
        assert online_bench.bench.train(out, spec, QUIET) == 1
    assert online_bench.bench.train(out, spec, QUIET) == 0
    assert curve_of(out) == curve_of(undisturbed)
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


@pytest.mark.parametrize(("step", "saved"), [(2, 2), (3, 4)])
def test_a_run_stopped_by_sigterm_resumes_at_the_epochs_beginning(
    online_bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, saved: int
) -> None:
    """The signal takes effect after the step that follows it: step 3 is mid-epoch, step 4 ends an epoch."""
    out, spec = tmp_path / "out", online_bench.train_spec()
    placement = QUIET.model_copy(update={"checkpoint_every_steps": 100})
    with stop_after(monkeypatch, step, None):
        assert online_bench.bench.train(out, spec, placement) == 143
    failure = failure_of(out)
    assert failure.step == saved
    repeats = " after step 3, so it repeats 1 step" if saved == 2 else ""
    assert failure.message.startswith(f"Stopped by SIGTERM{repeats}; checkpointed at step {saved}.")
    assert (out / "checkpoints" / f"step_{saved:06d}").is_dir()
    assert online_bench.bench.train(out, spec, placement) == 0
    assert curve_of(out) == curve_of(undisturbed)
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


def test_full_fine_tune_has_a_frozen_reference(online_bench: Any, tmp_path: Path) -> None:
    spec = online_bench.train_spec(tuning={"kind": "full"}, optimiser={"learning_rate": 1e-4}, steps=4)
    assert online_bench.bench.train(tmp_path / "out", spec, QUIET) == 0
    metrics = dict(curve_of(tmp_path / "out"))
    assert metrics[1]["margin"] == 0
    assert metrics[3]["margin"] != 0, "drawn by the moved weights, judged by the base"


@pytest.mark.parametrize("tuning", [{"kind": "full"}, {"kind": "lora", "rank": 4, "alpha": 4}], ids=["full", "lora"])
def test_bf16_trains(online_bench: Any, undisturbed: Path, tmp_path: Path, tuning: dict[str, Any]) -> None:
    spec = online_bench.train_spec(precision="bf16", tuning=tuning, steps=2)
    assert online_bench.bench.train(tmp_path / "out", spec, QUIET) == 0
    (_, first), (_, second) = curve_of(tmp_path / "out")
    exact = curve_of(undisturbed)[0][1]
    assert first["loss"] == pytest.approx(exact["loss"], rel=0.2)
    assert first["loss"] != exact["loss"]
    assert first["margin"] == 0, "drawn and judged in one precision"
    assert second["gradient_norm"] > 0


def test_a_reward_of_nan_is_bad_input(online_bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(self: ClipPreferenceScorer, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        return torch.full((len(prompts),), float("nan"))

    monkeypatch.setattr(ClipPreferenceScorer, "score", score)
    assert online_bench.bench.train(tmp_path / "out", online_bench.train_spec(), QUIET) == 2
    assert failure_of(tmp_path / "out").kind == "bad_input"
    assert "Reward 'taste' gave nan" in failure_of(tmp_path / "out").message


def test_missing_inputs_are_refused(online_bench: Any, tmp_path: Path) -> None:
    spec = online_bench.train_spec()
    online = spec.online.model_copy(update={"prompts_digest": "5" * 64})
    assert online_bench.bench.train(tmp_path / "a", spec.model_copy(update={"online": online}), QUIET) == 2
    assert "The prompts file with digest 5555" in failure_of(tmp_path / "a").message
    reward = spec.online.reward.model_copy(update={"weights_digest": "6" * 64})
    online = spec.online.model_copy(update={"reward": reward})
    assert online_bench.bench.train(tmp_path / "b", spec.model_copy(update={"online": online}), QUIET) == 2
    assert "The reward taste with digest 6666" in failure_of(tmp_path / "b").message


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_give_one_curve(online_bench: Any, undisturbed: Path, tmp_path: Path, two_ranks: Any) -> None:
    out = tmp_path / "out"
    placement = QUIET.model_copy(update={"num_processes": 2})
    arguments = online_bench.bench.write_job(tmp_path / "job", online_bench.train_spec(), placement, out)
    two_ranks.run("alignment.jobs.train", arguments)
    for (step, ours), (_, theirs) in zip(curve_of(out), curve_of(undisturbed), strict=True):
        for name, value in ours.items():
            # A gain is a difference of two rewards, so it rounds as they do.
            small = 1e-3 * abs(theirs["reward"]) if name == "reward_gain" else 1e-6
            assert value == pytest.approx(theirs[name], rel=1e-3, abs=small), (step, name)
        if step == 1:
            moved = {"gradient_norm": 0, "reward_gain": 0}
            assert ours | moved == theirs | moved, "the same images, the same rewards"
