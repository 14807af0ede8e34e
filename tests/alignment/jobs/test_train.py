"""The train job: undisturbed, interrupted in every way, split over processes, and given bad input."""

import dataclasses
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.contracts.jobs import (
    HEALTH,
    NORM_BINS,
    PLACEMENT_CHOICE_FILE,
    JobFailure,
    Placement,
    PlacementChoice,
    Progress,
    norm_ratios,
)
from alignment.contracts.precision import margin_noise
from alignment.contracts.training import TrainResult
from alignment.training import loop
from alignment.training.checkpoint import _damage, read_state

# The first test of a session pays for importing the model libraries and for encoding the cache.
pytestmark = pytest.mark.timeout(300)

QUIET = Placement(micro_batch=4, checkpoint_every_steps=3)
NOT_REPRODUCED = {"pairs_per_second", "gpu_memory_gib", "resident_memory_gib"}
TUNINGS = [{"kind": "full"}, {"kind": "lora", "rank": 4, "alpha": 4}]
OFFLINE = [
    {"name": "sft"},
    {"name": "diffusion_dpo", "link": "sigmoid"},
    {"name": "diffusion_dpo", "link": "hinge"},
    {"name": "diffusion_dpo", "link": "ipo"},
    {"name": "dcpo"},
    {"name": "mapo"},
    {"name": "mapo_paper"},
]


def name_of(objective: dict[str, str]) -> str:
    return "_".join(objective.values())


def result_of(out: Path) -> TrainResult:
    return TrainResult.model_validate_json((out / "result.json").read_text())


def failure_of(out: Path) -> JobFailure:
    return JobFailure.model_validate_json((out / "failure.json").read_text())


def is_reproduced(metric: str) -> bool:
    return metric not in NOT_REPRODUCED and not metric.startswith(HEALTH)


def curve_of(out: Path) -> list[tuple[int, dict[str, float]]]:
    """The steps and the metrics that a rerun must reproduce."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], {name: value for name, value in line["metrics"].items() if is_reproduced(name)})
        for line in lines
    ]


@pytest.fixture(scope="module")
def undisturbed(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps without interruption."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert bench.train(out, bench.train_spec(), QUIET) == 0
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


def test_result_and_files(bench: Any, undisturbed: Path) -> None:
    result = result_of(undisturbed)
    assert result.kind == "lora"
    assert result.spec_digest == bench.train_spec().digest
    assert (result.steps, result.num_pairs, result.uri) == (10, 24, "")
    assert [path.name for path in (undisturbed / "weights").iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert [step for step, _ in curve_of(undisturbed)] == list(range(1, 11))
    first, last = curve_of(undisturbed)[0][1], curve_of(undisturbed)[-1][1]
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-6), "the policy begins as the reference"
    assert first["implicit_accuracy"] == 0.5
    assert first["learning_rate"] == pytest.approx(5e-4)
    assert result.final_metrics["loss"] == pytest.approx(last["loss"])
    assert {"margin", "chosen_error_minus_reference", "rejected_error_minus_reference", "gradient_norm"} <= set(last)
    assert len(norm_ratios(result.final_metrics)) == NORM_BINS, "measured once, after the last step"
    assert norm_ratios(result.final_metrics) == norm_ratios(last)
    assert norm_ratios(curve_of(undisturbed)[-2][1]) == ()
    progress = Progress.model_validate_json((undisturbed / "progress.json").read_text())
    assert (progress.done, progress.total, progress.unit) == (10, 10, "steps")


def test_the_same_run_twice_gives_the_same_result(bench: Any, undisturbed: Path, tmp_path: Path) -> None:
    assert bench.train(tmp_path / "out", bench.train_spec(), QUIET) == 0
    assert result_of(tmp_path / "out").weights_digest == result_of(undisturbed).weights_digest
    assert bench.train(tmp_path / "other", bench.train_spec(seed=4), QUIET) == 0
    assert result_of(tmp_path / "other").weights_digest != result_of(undisturbed).weights_digest


def test_finished_output_is_returned_at_once(bench: Any, undisturbed: Path) -> None:
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    assert bench.train(undisturbed, bench.train_spec(), QUIET) == 0
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("step", [1, 3, 5, 9, 10])
def test_crash_after_any_step_and_resume(
    bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    out = tmp_path / "out"
    with stop_after(monkeypatch, step, RuntimeError):
        assert bench.train(out, bench.train_spec(), QUIET) == 1
    assert failure_of(out).kind == "crashed"
    assert bench.train(out, bench.train_spec(), QUIET) == 0
    assert not (out / "failure.json").exists()
    assert curve_of(out) == curve_of(undisturbed)
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


def test_sigterm_checkpoints_at_once(
    bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with stop_after(monkeypatch, 4, None):
        assert bench.train(out, bench.train_spec(), QUIET) == 143
    failure = failure_of(out)
    assert failure.kind == "preempted"
    assert failure.step == 5
    assert _damage(out / "checkpoints" / "step_000005") is None
    assert bench.train(out, bench.train_spec(), QUIET) == 0
    assert curve_of(out) == curve_of(undisturbed)
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


def test_damaged_newest_checkpoint_falls_back(
    bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with stop_after(monkeypatch, 8, RuntimeError):
        assert bench.train(out, bench.train_spec(), QUIET) == 1
    caplog.set_level("INFO")
    victim = out / "checkpoints" / "step_000006" / "weights.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x55")
    assert bench.train(out, bench.train_spec(), QUIET) == 0
    assert any("step_000006 is damaged" in record.getMessage() for record in caplog.records)
    assert any("resumed from" in r.getMessage() and "step_000003" in r.getMessage() for r in caplog.records)
    assert curve_of(out) == curve_of(undisturbed)
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


def test_full_disk_keeps_the_old_checkpoint(
    bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with stop_after(monkeypatch, 4, RuntimeError):
        assert bench.train(out, bench.train_spec(), QUIET) == 1
    old = out / "checkpoints" / "step_000003"
    size = (old / "optimiser.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        assert bench.train(out, bench.train_spec(), QUIET) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    failure = failure_of(out)
    assert failure.kind == "storage_full"
    assert str(out / "checkpoints") in failure.message
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_000003"]
    assert _damage(old) is None
    assert bench.train(out, bench.train_spec(), QUIET) == 0
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


def test_divergence_stops_and_keeps_the_last_good_checkpoint(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wild = bench.train_spec(tuning={"kind": "full"}, optimiser={"learning_rate": 1e18}, max_grad_norm=1e6)
    assert bench.train(out, wild, Placement(micro_batch=8, checkpoint_every_steps=1)) == 1
    failure = failure_of(out)
    assert failure.kind == "diverged"
    assert failure.step is not None
    assert _damage(out / "checkpoints" / f"step_{failure.step:06d}") is None
    assert curve_of(out)[-1][0] == failure.step
    assert not (out / "result.json").exists()


def test_weights_that_the_last_step_spoils_are_not_published(bench: Any, tmp_path: Path) -> None:
    """No loss is computed after the last step."""
    out = tmp_path / "out"
    wild = bench.train_spec(
        tuning={"kind": "full"},
        optimiser={"learning_rate": 3e38, "warmup_steps": 0, "weight_decay": 1.0, "betas": (0.0, 0.999)},
        steps=1,
    )
    assert bench.train(out, wild, QUIET) == 1
    assert failure_of(out).kind == "diverged"
    assert "values that are not finite" in failure_of(out).message
    assert not (out / "weights").exists()


def test_micro_batch_does_not_change_the_curve(
    bench: Any, undisturbed: Path, tmp_path: Path, assert_one_curve: Callable[..., None]
) -> None:
    assert bench.train(tmp_path / "out", bench.train_spec(), Placement(micro_batch=3)) == 0
    assert_one_curve(bench, bench.train_spec(), curve_of(tmp_path / "out"), curve_of(undisturbed))


def test_flipped_labels_begin_with_the_opposite_gradient(bench: Any, tmp_path: Path) -> None:
    assert bench.train(tmp_path / "out", bench.train_spec(flip_labels=True, caption_dropout=0.0), QUIET) == 0
    assert bench.train(tmp_path / "straight", bench.train_spec(caption_dropout=0.0), QUIET) == 0
    flipped, straight = curve_of(tmp_path / "out"), curve_of(tmp_path / "straight")
    assert flipped[0][1]["chosen_error"] == pytest.approx(straight[0][1]["rejected_error"], rel=1e-6)
    assert flipped[0][1]["rejected_error"] == pytest.approx(straight[0][1]["chosen_error"], rel=1e-6)


def test_sft_lowers_the_chosen_error(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(
        objective={"name": "sft"},
        tuning={"kind": "full"},
        optimiser={"learning_rate": 3e-3},
        steps=30,
        global_batch=16,
    )
    assert bench.train(tmp_path / "out", spec, Placement(micro_batch=16)) == 0
    curve = [metrics["chosen_error"] for _, metrics in curve_of(tmp_path / "out")]
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    assert "chosen_error_minus_reference" not in curve_of(tmp_path / "out")[0][1]


def test_bf16_stays_close_to_fp32(bench: Any, undisturbed: Path, tmp_path: Path) -> None:
    assert bench.train(tmp_path / "out", bench.train_spec(precision="bf16"), QUIET) == 0
    pairs = list(zip(curve_of(tmp_path / "out"), curve_of(undisturbed), strict=True))
    differences = [abs(ours["chosen_error"] - theirs["chosen_error"]) for (_, ours), (_, theirs) in pairs]
    assert 0 < max(differences) < 0.02


def test_samples_do_not_disturb_training_and_are_drawn_once(
    bench: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = QUIET.model_copy(update={"sample_prompts": ("a plain red picture", "blue"), "sample_every_steps": 4})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert bench.train(whole, bench.train_spec(), placement) == 0
    with stop_after(monkeypatch, 9, RuntimeError):
        assert bench.train(broken, bench.train_spec(), placement) == 1
    assert bench.train(broken, bench.train_spec(), placement) == 0
    assert result_of(whole).weights_digest == result_of(undisturbed).weights_digest
    for out in (whole, broken):
        lines = [json.loads(line) for line in (out / "samples/index.jsonl").read_text().splitlines()]
        assert [(line["step"], line["key"]) for line in lines] == [
            (step, f"samples/{number:02d}") for step in (0, 4, 8, 10) for number in (0, 1)
        ]
        assert all((out / line["path"]).is_file() for line in lines)
    for step in (0, 10):
        name = f"samples/step_{step:06d}/00.png"
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert (whole / "samples/step_000000/00.png").read_bytes() != (whole / "samples/step_000010/00.png").read_bytes()


@pytest.mark.parametrize("policy", ["every_n", "all"])
def test_checkpointed_blocks_give_the_same_bits(bench: Any, undisturbed: Path, tmp_path: Path, policy: str) -> None:
    out, placement = tmp_path / "out", QUIET.model_copy(update={"gradient_checkpointing": policy})
    assert bench.train(out, bench.train_spec(), placement) == 0
    assert curve_of(out) == curve_of(undisturbed)
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


@pytest.mark.parametrize("tuning", TUNINGS, ids=["full", "lora"])
def test_checkpointed_blocks_give_the_same_bits_in_bf16(bench: Any, tmp_path: Path, tuning: dict[str, Any]) -> None:
    spec = bench.train_spec(precision="bf16", tuning=tuning, steps=3)
    for policy in ("none", "all"):
        placement = QUIET.model_copy(update={"gradient_checkpointing": policy})
        assert bench.train(tmp_path / policy, spec, placement) == 0
    assert curve_of(tmp_path / "all") == curve_of(tmp_path / "none")
    assert result_of(tmp_path / "all").weights_digest == result_of(tmp_path / "none").weights_digest


@pytest.mark.parametrize("tuning", TUNINGS, ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", OFFLINE, ids=name_of)
def test_every_objective_trains_in_every_tuning_and_precision(
    captioned_bench: Any, tmp_path: Path, objective: dict[str, str], precision: str, tuning: dict[str, Any]
) -> None:
    spec = captioned_bench.train_spec(objective=objective, precision=precision, tuning=tuning, steps=3)
    assert captioned_bench.train(tmp_path / "out", spec, QUIET) == 0
    curve = curve_of(tmp_path / "out")
    assert all(math.isfinite(value) for _, metrics in curve for value in metrics.values())
    assert all(metrics["gradient_norm"] > 0 for _, metrics in curve)
    referenced = objective["name"] in {"dcpo", "diffusion_dpo"}
    assert ("chosen_error_minus_reference" in curve[0][1]) == referenced
    if referenced:
        assert curve[0][1]["margin"] == pytest.approx(0, abs=1e-6), "policy and reference begin as one"
        assert curve[2][1]["margin"] != 0


def test_an_objective_that_needs_captions_is_refused_without_captions(bench: Any, tmp_path: Path) -> None:
    assert bench.train(tmp_path / "out", bench.train_spec(objective={"name": "dcpo"}), QUIET) == 2
    failure = failure_of(tmp_path / "out")
    assert failure.kind == "bad_input"
    assert "Objective 'dcpo' trains each image under its own caption" in failure.message


def test_adapters_that_match_no_module_are_bad_input(bench: Any, tmp_path: Path) -> None:
    nowhere = {"kind": "lora", "rank": 4, "alpha": 4, "target_modules": ("to_nowhere",)}
    assert bench.train(tmp_path / "out", bench.train_spec(tuning=nowhere), QUIET) == 2
    failure = failure_of(tmp_path / "out")
    assert failure.kind == "bad_input"
    assert "to_nowhere" in failure.message
    assert not (tmp_path / "out" / "result.json").exists()
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def altered_cache(bench: Any, tmp_path: Path, alter: Callable[[Path], None]) -> Any:
    """A bench whose cache was changed after it was encoded, and a spec that names it."""
    inputs, digest = tmp_path / "inputs", "7" * 64
    inputs.mkdir()
    for path in bench.inputs.iterdir():
        if path.name != bench.cache.content_digest:
            (inputs / path.name).symlink_to(path)
    shutil.copytree(bench.inputs / bench.cache.content_digest, inputs / digest)
    alter(inputs / digest)
    cache = bench.cache.model_copy(update={"content_digest": digest})
    return dataclasses.replace(bench, inputs=inputs, cache=cache)


def without_pairs(cache: Path) -> None:
    index = json.loads((cache / "index.json").read_text())
    (cache / "index.json").write_text(json.dumps(index | {"num_pairs": 0}))


def with_nan(kind: str, name: str) -> Callable[[Path], None]:
    def alter(cache: Path) -> None:
        path = cache / kind / "00000.safetensors"
        tensors = load_file(path)
        tensors[name][2].flatten()[0] = float("nan")
        save_file(tensors, path)

    return alter


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (without_pairs, "holds no pairs"),
        (with_nan("pairs", "rejected_mean_BCHW"), "rejected_mean_BCHW of pair 2 of the feature cache"),
        (with_nan("text", "states_LD"), "states_LD of caption 2 of the feature cache"),
    ],
    ids=["empty", "latents", "captions"],
)
def test_a_cache_without_pairs_or_with_nan_is_bad_input(
    bench: Any, tmp_path: Path, alter: Callable[[Path], None], complaint: str
) -> None:
    altered = altered_cache(bench, tmp_path, alter)
    assert altered.train(tmp_path / "out", altered.train_spec(steps=4), QUIET) == 2
    failure = failure_of(tmp_path / "out")
    assert failure.kind == "bad_input"
    assert complaint in failure.message
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_run_on_buckets_is_one_curve_whatever_the_micro_batch_and_wherever_it_stops(
    bucketed_bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_one_curve: Callable[..., None]
) -> None:
    spec = bucketed_bench.train_spec()
    assert spec.recipe.images.kind == "aspect_buckets"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert bucketed_bench.train(whole, spec, QUIET) == 0
    with stop_after(monkeypatch, 5, RuntimeError):
        assert bucketed_bench.train(broken, spec, QUIET) == 1
    assert bucketed_bench.train(broken, spec, QUIET) == 0
    assert curve_of(broken) == curve_of(whole)
    assert result_of(broken).weights_digest == result_of(whole).weights_digest
    for micro_batch in (1, 8):
        out = tmp_path / f"micro_{micro_batch}"
        assert bucketed_bench.train(out, spec, Placement(micro_batch=micro_batch)) == 0
        assert_one_curve(bucketed_bench, spec, curve_of(out), curve_of(whole))


def test_adafactor_resumes_exactly(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adafactor = {"kind": "adafactor", "learning_rate": 1e-3, "warmup_steps": 2}
    spec = bench.train_spec(tuning={"kind": "full"}, optimiser=adafactor)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert bench.train(whole, spec, QUIET) == 0
    with stop_after(monkeypatch, 5, RuntimeError):
        assert bench.train(broken, spec, QUIET) == 1
    assert bench.train(broken, spec, QUIET) == 0
    assert curve_of(broken) == curve_of(whole)
    assert result_of(broken).weights_digest == result_of(whole).weights_digest
    assert bench.train(tmp_path / "adamw", bench.train_spec(tuning={"kind": "full"}), QUIET) == 0
    assert result_of(tmp_path / "adamw").weights_digest != result_of(whole).weights_digest


def test_a_run_with_channels_last_resumes_exactly(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints hold the weights and moments in the usual order; sums must not depend on which order came first."""
    spec, placement = bench.train_spec(tuning={"kind": "full"}), QUIET.model_copy(update={"channels_last": True})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert bench.train(whole, spec, placement) == 0
    with stop_after(monkeypatch, 5, RuntimeError):
        assert bench.train(broken, spec, placement) == 1
    assert bench.train(broken, spec, placement) == 0
    assert curve_of(broken) == curve_of(whole)
    assert result_of(broken).weights_digest == result_of(whole).weights_digest


def test_a_cache_with_another_image_size_is_refused(bench: Any, bucketed_bench: Any, tmp_path: Path) -> None:
    spec = bucketed_bench.train_spec(images={"kind": "square"})
    assert bucketed_bench.train(tmp_path / "out", spec, QUIET) == 2
    message = failure_of(tmp_path / "out").message
    assert "cut as AspectBuckets" in message
    assert "needs Square" in message


def test_mismatched_inputs_are_refused(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec()
    assert bench.train(tmp_path / "a", spec.model_copy(update={"base_digest": "3" * 64}), QUIET) == 2
    assert "encoded by base model" in failure_of(tmp_path / "a").message
    backbone = {"name": "stable_diffusion", "resolution": 128}
    assert bench.train(tmp_path / "b", bench.train_spec(backbone=backbone), QUIET) == 2
    assert "resolution=64" in failure_of(tmp_path / "b").message
    assert bench.train(tmp_path / "c", spec.model_copy(update={"cache_digest": "4" * 64}), QUIET) == 2
    assert "feature cache" in failure_of(tmp_path / "c").message


def test_checkpoints_of_another_spec_are_refused(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_after(monkeypatch, 4, RuntimeError):
        assert bench.train(tmp_path / "out", bench.train_spec(), QUIET) == 1
    assert bench.train(tmp_path / "out", bench.train_spec(seed=9), QUIET) == 2
    assert "another train spec" in failure_of(tmp_path / "out").message


# --- separate processes -----------------------------------------------------------------------------------------------


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stderr=file, stdout=file, start_new_session=True)


def wait_for_step(out: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until metrics.jsonl holds that step, for two minutes at most."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        path = out / "metrics.jsonl"
        if path.is_file() and f'"step":{step},' in path.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached; exit code {process.poll()}")


def signal_group(process: subprocess.Popen[bytes], number: int) -> int:
    """Send a signal to the whole group and wait for its leader's exit code."""
    os.killpg(process.pid, number)
    return process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_was_killed_then_terminated_gives_the_undisturbed_result(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(steps=60, tuning={"kind": "full"}, optimiser={"learning_rate": 1e-4})
    placement = QUIET.model_copy(update={"checkpoint_every_steps": 4})
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert bench.train(whole, spec, placement) == 0
    command = [sys.executable, "-m", "alignment.jobs.train", *bench.write_job(tmp_path / "j", spec, placement, out)]
    process = start(command, tmp_path / "log")
    wait_for_step(out, 7, process)
    assert signal_group(process, signal.SIGKILL) == -signal.SIGKILL
    assert not (out / "result.json").exists()
    process = start(command, tmp_path / "log")
    wait_for_step(out, 20, process)
    assert signal_group(process, signal.SIGTERM) == 143
    stopped = failure_of(out)
    assert stopped.kind == "preempted"
    assert stopped.step is not None
    assert _damage(out / "checkpoints" / f"step_{stopped.step:06d}") is None
    assert bench.train(out, spec, placement) == 0
    assert "resumed from" in (tmp_path / "log").read_text()
    assert curve_of(out) == curve_of(whole)
    assert result_of(out).weights_digest == result_of(whole).weights_digest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_give_one_curve_on_buckets(
    bucketed_bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None], two_ranks: Any
) -> None:
    """The shares end at other pairs than one process's pieces, so sums round differently; the curve is the same."""
    spec, out = bucketed_bench.train_spec(), tmp_path / "out"
    assert bucketed_bench.train(tmp_path / "one", spec, QUIET) == 0
    placement = QUIET.model_copy(update={"num_processes": 2})
    two_ranks.run("alignment.jobs.train", bucketed_bench.write_job(tmp_path / "job", spec, placement, out))
    assert_one_curve(bucketed_bench, spec, curve_of(out), curve_of(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_give_one_curve_and_survive_sigterm(
    bench: Any, undisturbed: Path, tmp_path: Path, two_ranks: Any
) -> None:
    out = tmp_path / "out"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    placement = QUIET.model_copy(update={"num_processes": 2})
    arguments = bench.write_job(tmp_path / "job", bench.train_spec(), placement, out)
    process = start([*launch, "-m", "alignment.jobs.train", *arguments], tmp_path / "log")
    wait_for_step(out, 2, process)
    assert signal_group(process, signal.SIGTERM) != 0
    assert failure_of(out).kind == "preempted"
    two_ranks.run("alignment.jobs.train", arguments)
    assert curve_of(out) == curve_of(undisturbed), "the same micro-batches in the same order add up to the same bits"
    assert result_of(out).weights_digest == result_of(undisturbed).weights_digest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_agree_on_an_adaptive_micro_batch_and_give_the_same_curve(
    bench: Any, undisturbed: Path, tmp_path: Path, assert_one_curve: Callable[..., None], two_ranks: Any
) -> None:
    spec, out = bench.train_spec(), tmp_path / "out"
    placement = QUIET.model_copy(update={"num_processes": 2, "auto": True})
    two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / "job", spec, placement, out))
    choice = PlacementChoice.model_validate_json((out / PLACEMENT_CHOICE_FILE).read_text())
    curve = curve_of(out)
    assert {metrics.pop("micro_batch") for _, metrics in curve} == {choice.micro_batch}
    assert choice.micro_batch <= spec.recipe.global_batch / 2
    assert_one_curve(bench, spec, curve, curve_of(undisturbed))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sample_grids_part_no_gradient_of_two_processes(
    bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None], two_ranks: Any
) -> None:
    spec, out = bench.train_spec(tuning={"kind": "full"}, steps=6), tmp_path / "out"
    samples = {"sample_prompts": ("red",), "sample_every_steps": 2}
    assert bench.train(tmp_path / "one", spec, QUIET.model_copy(update=samples)) == 0
    placement = QUIET.model_copy(update={"num_processes": 2, **samples})
    two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / "job", spec, placement, out))
    assert_one_curve(bench, spec, curve_of(out), curve_of(tmp_path / "one"))


def spec_of(bench: Any, objective: dict[str, str]) -> Any:
    """Full weights for half of the objectives, adapters for the others: both kinds of reference are covered."""
    return bench.train_spec(objective=objective, tuning=TUNINGS[OFFLINE.index(objective) % 2], steps=4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OFFLINE, ids=name_of)
def test_every_objective_has_one_curve_on_one_and_on_two_processes(
    captioned_bench: Any, two_ranks: Any, tmp_path: Path, objective: dict[str, str]
) -> None:
    spec, out = spec_of(captioned_bench, objective), tmp_path / "two"
    assert captioned_bench.train(tmp_path / "one", spec, QUIET) == 0
    placement = QUIET.model_copy(update={"num_processes": 2})
    two_ranks.run("alignment.jobs.train", captioned_bench.write_job(tmp_path / "job", spec, placement, out))
    alone, shared = curve_of(tmp_path / "one"), curve_of(out)
    assert [step for step, _ in shared] == [1, 2, 3, 4]
    for (step, ours), (_, theirs) in zip(shared, alone, strict=True):
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), (step, name)


SHARDED = QUIET.model_copy(update={"num_processes": 2, "sharding": "fsdp2"})


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: tuning["kind"])
def test_sharded_weights_give_the_curve_and_the_files_of_one_process(
    bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None], two_ranks: Any, tuning: dict[str, Any]
) -> None:
    """Images, checkpoints and weights are gathered from both processes."""
    spec = bench.train_spec(tuning=tuning, optimiser={"learning_rate": 1e-4})
    files = {"sample_prompts": ("a red circle",), "sample_every_steps": 5, "checkpoint_every_steps": 5}
    one, two = tmp_path / "one", tmp_path / "two"
    assert bench.train(one, spec, QUIET.model_copy(update=files)) == 0
    placement = SHARDED.model_copy(update=files)
    two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / "job", spec, placement, two))
    assert_one_curve(bench, spec, curve_of(two), curve_of(one))
    written = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert written == {path.relative_to(two) for path in two.rglob("*") if path.is_file()}
    tensors = [path.relative_to(one) for path in one.rglob("*.safetensors")]
    assert len(tensors) > 2
    # Adam divides a gradient by its own size, so a weight whose gradient is nearly 0 moves by up to the learning rate
    # in a direction that rounding decides.
    most = 2 * spec.recipe.optimiser.learning_rate * spec.recipe.steps
    for path in tensors:
        ours, theirs = load_file(two / path), load_file(one / path)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.shape == theirs[name].shape
            assert torch.allclose(tensor, theirs[name], rtol=1e-2, atol=most), (path, name)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("tuning", "storage"), [(TUNINGS[0], "bf16"), *((TUNINGS[1], kind) for kind in ("bf16", "int8", "nf4"))]
)
def test_stored_weights_in_shards_give_the_curve_of_one_process(
    bench: Any, tmp_path: Path, two_ranks: Any, tuning: dict[str, Any], storage: str
) -> None:
    """Until the first update both compute the same passes, and their backward passes add bf16 gradients in another
    order: 2^-8 of each, seen 0.7 % of the norm. Later, errors and margins differ by the stated noise of bf16 at most,
    as they do where the weights are stored in float32; seen a fifth of it.
    """
    science = {"tuning": tuning, "precision": "bf16", "frozen_weights": storage, "steps": 5}
    spec = bench.train_spec(**science, optimiser={"learning_rate": 1e-4})
    assert bench.train(tmp_path / "one", spec, QUIET) == 0
    two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / "job", spec, SHARDED, tmp_path / "two"))
    ours, theirs = curve_of(tmp_path / "two"), curve_of(tmp_path / "one")
    beta = spec.recipe.objective.beta
    noise = margin_noise("bf16", beta, math.prod(bench.cache.latent_shape))
    for (step, found), (_, expected) in zip(ours, theirs, strict=True):
        error, margin = (1e-6, 0.0) if step == 1 else (noise / beta, noise)
        for name, allowed in {"chosen_error": error, "rejected_error": error, "margin": margin, "loss": margin}.items():
            assert abs(found[name] - expected[name]) <= allowed, (step, name)
    assert ours[0][1]["gradient_norm"] == pytest.approx(theirs[0][1]["gradient_norm"], rel=4 * 2**-8)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_divided_reference_in_bf16_changes_no_weight_of_a_full_fine_tune(
    bench: Any, tmp_path: Path, two_ranks: Any
) -> None:
    """Autocast rounds the matrices of a float32 reference to the same values in every pass, also in shards."""
    digests = []
    for storage in ("fp32", "bf16"):
        science = {"tuning": {"kind": "full"}, "precision": "bf16", "frozen_weights": storage, "steps": 3}
        spec, out = bench.train_spec(**science, optimiser={"learning_rate": 1e-4}), tmp_path / storage
        two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / f"{storage}_job", spec, SHARDED, out))
        digests.append(result_of(out).weights_digest)
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: tuning["kind"])
def test_checkpointed_blocks_give_one_curve_on_copies_and_on_shards(
    bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None], two_ranks: Any, tuning: dict[str, Any]
) -> None:
    """With copies even the bits are those of one process: both add up the same micro-batches in the same order."""
    spec = bench.train_spec(tuning=tuning, optimiser={"learning_rate": 1e-4})
    assert bench.train(tmp_path / "one", spec, QUIET) == 0
    for sharding in ("none", "fsdp2"):
        changes = {"sharding": sharding, "gradient_checkpointing": "all"}
        placement, out = SHARDED.model_copy(update=changes), tmp_path / sharding
        two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / f"{sharding}_job", spec, placement, out))
        assert_one_curve(bench, spec, curve_of(out), curve_of(tmp_path / "one"))
    assert curve_of(tmp_path / "none") == curve_of(tmp_path / "one")
    assert result_of(tmp_path / "none").weights_digest == result_of(tmp_path / "one").weights_digest


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tuning", TUNINGS, ids=lambda tuning: tuning["kind"])
def test_copies_continue_from_a_checkpoint_of_one_process_and_the_reverse(
    bench: Any, tmp_path: Path, two_ranks: Any, tuning: dict[str, Any]
) -> None:
    spec = bench.train_spec(tuning=tuning, optimiser={"learning_rate": 1e-4})
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert bench.train(whole, spec, QUIET) == 0
    every = {"checkpoint_every_steps": 4, "keep_checkpoints": 9}
    assert bench.train(out, spec, QUIET.model_copy(update=every)) == 0
    shutil.rmtree(out / "checkpoints" / "step_000008")
    (out / "result.json").unlink()
    placement = QUIET.model_copy(update=every | {"num_processes": 2})
    two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / "job", spec, placement, out))
    assert curve_of(out) == curve_of(whole)
    (out / "result.json").unlink()
    assert bench.train(out, spec, QUIET) == 0
    assert curve_of(out) == curve_of(whole)
    assert result_of(out).weights_digest == result_of(whole).weights_digest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sharded_run_continues_from_a_checkpoint_of_one_process_and_the_reverse(
    bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None], two_ranks: Any
) -> None:
    spec = bench.train_spec(tuning={"kind": "full"}, optimiser={"learning_rate": 1e-4})
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert bench.train(whole, spec, QUIET) == 0
    every = {"checkpoint_every_steps": 4, "keep_checkpoints": 9}
    assert bench.train(out, spec, QUIET.model_copy(update=every)) == 0
    shutil.rmtree(out / "checkpoints" / "step_000008")
    (out / "result.json").unlink()
    two_ranks.run("alignment.jobs.train", bench.write_job(tmp_path / "j", spec, SHARDED.model_copy(update=every), out))
    assert_one_curve(bench, spec, curve_of(out), curve_of(whole))
    assert read_state(out / "checkpoints" / "step_000008").step == 8
    (out / "result.json").unlink()
    assert bench.train(out, spec, QUIET) == 0
    assert_one_curve(bench, spec, curve_of(out), curve_of(whole))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_shards_of_unequal_batches_run_the_same_number_of_passes(
    bucketed_bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None], two_ranks: Any
) -> None:
    spec, out = bucketed_bench.train_spec(), tmp_path / "out"
    assert bucketed_bench.train(tmp_path / "one", spec, QUIET) == 0
    two_ranks.run("alignment.jobs.train", bucketed_bench.write_job(tmp_path / "job", spec, SHARDED, out))
    assert_one_curve(bucketed_bench, spec, curve_of(out), curve_of(tmp_path / "one"))


def test_a_recipe_that_cannot_be_sharded_is_refused(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(optimiser={"kind": "adafactor", "learning_rate": 1e-4})
    assert bench.train(tmp_path / "out", spec, SHARDED) == 2
    assert failure_of(tmp_path / "out").kind == "bad_input"
    assert "optimiser 'adafactor' needs each weight whole" in failure_of(tmp_path / "out").message
