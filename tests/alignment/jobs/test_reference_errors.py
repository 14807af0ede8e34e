"""The base's errors, computed once: the same curves as without them, however the work is divided, and bad input."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import HEALTH, JobFailure, Placement
from alignment.contracts.reference_errors import ReferenceErrors, ReferenceSpec, reference_spec
from alignment.contracts.training import TrainSpec
from alignment.training import loop, reference_errors

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)
QUIET = Placement(micro_batch=4, checkpoint_every_steps=3)
MACHINE = {"pairs_per_second", "gpu_memory_gib", "resident_memory_gib"}
SIGNS = {"chosen_worse_steps"}
"""Counts the sign of a difference of errors, which is 0 at the first step and rounds to either side."""

Curve = list[tuple[int, dict[str, float]]]


def spec_of(spec: TrainSpec, visits: int | None = None) -> ReferenceSpec:
    found = reference_spec(spec)
    assert found is not None
    steps = visits or found.common.steps
    return found.model_copy(update={"common": found.common.model_copy(update={"steps": steps})})


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def curve_of(out: Path) -> Curve:
    return [
        (
            line["step"],
            {n: value for n, value in line["metrics"].items() if n not in MACHINE | SIGNS and not n.startswith(HEALTH)},
        )
        for line in lines_of(out)
    ]


def failure_of(out: Path) -> JobFailure:
    return JobFailure.model_validate_json((out / "failure.json").read_text())


def with_errors(bench: Any, folder: Path, spec: TrainSpec, visits: int | None = None, **placement: Any) -> Any:
    """A bench whose inputs contain the errors for a run."""
    errors, inputs = folder / "errors_out", folder / "inputs"
    assert bench.reference_errors(errors, spec_of(spec, visits), Placement(**{"micro_batch": 2, **placement})) == 0
    inputs.mkdir()
    for path in bench.inputs.iterdir():
        (inputs / path.name).symlink_to(path)
    (inputs / spec_of(spec).key).symlink_to(errors)
    return dataclasses.replace(bench, inputs=inputs)


@pytest.mark.parametrize("tuning", [{"kind": "lora", "rank": 4, "alpha": 4}, {"kind": "full"}], ids=["lora", "full"])
def test_a_run_with_the_errors_has_the_curve_of_a_run_without(
    bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None], tuning: dict[str, Any]
) -> None:
    # AdamW's first steps have the size of the rate whatever the gradient, so a gradient that rounds to the other side
    # of zero moves its weight the other way. Of a full fine-tune's weights many have such gradients; a small rate keeps
    # their effect on the errors below the rounding of the errors.
    rate = 1e-3 if tuning["kind"] == "lora" else 1e-5
    spec = bench.train_spec(tuning=tuning, optimiser={"learning_rate": rate, "warmup_steps": 2})
    assert bench.train(tmp_path / "plain", spec, QUIET) == 0
    shared = with_errors(bench, tmp_path, spec)
    assert shared.train(tmp_path / "shared", spec, QUIET) == 0
    assert_one_curve(bench, spec, curve_of(tmp_path / "shared"), curve_of(tmp_path / "plain"))
    spent = f"{HEALTH}reference_milliseconds"
    assert spent in lines_of(tmp_path / "plain")[0]["metrics"]
    assert spent not in lines_of(tmp_path / "shared")[0]["metrics"], "the reference's pass was left out"


def test_recipes_with_another_beta_length_batch_and_labels_share_one_folder(
    bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None]
) -> None:
    changes = [
        {"objective": {"name": "diffusion_dpo", "beta": 100.0}, "global_batch": 5},
        {"flip_labels": True, "steps": 6, "tuning": {"kind": "lora", "rank": 2, "alpha": 2}},
    ]
    shared = with_errors(bench, tmp_path, bench.train_spec())
    for number, change in enumerate(changes):
        spec = bench.train_spec(**change)
        assert bench.train(tmp_path / f"plain{number}", spec, QUIET) == 0
        assert shared.train(tmp_path / f"shared{number}", spec, QUIET) == 0
        assert_one_curve(bench, spec, curve_of(tmp_path / f"shared{number}"), curve_of(tmp_path / f"plain{number}"))
        assert f"{HEALTH}reference_milliseconds" not in lines_of(tmp_path / f"shared{number}")[0]["metrics"]


def test_a_resumed_run_and_one_in_other_micro_batches_have_the_same_curve(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_one_curve: Callable[..., None]
) -> None:
    spec = bench.train_spec()
    shared = with_errors(bench, tmp_path, spec)
    assert shared.train(tmp_path / "whole", spec, QUIET) == 0
    assert shared.train(tmp_path / "pieces", spec, QUIET.model_copy(update={"micro_batch": 3})) == 0
    assert_one_curve(bench, spec, curve_of(tmp_path / "pieces"), curve_of(tmp_path / "whole"))
    honest = loop.append_metrics

    def stop(out: Path, done: int, metrics: dict[str, float]) -> None:
        honest(out, done, metrics)
        if done == 5:
            raise RuntimeError("stopped after step 5")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "append_metrics", stop)
        assert shared.train(tmp_path / "resumed", spec, QUIET) == 1
    assert shared.train(tmp_path / "resumed", spec, QUIET) == 0
    assert curve_of(tmp_path / "resumed") == curve_of(tmp_path / "whole")


def errors_of(out: Path) -> dict[str, torch.Tensor]:
    pieces = [load_file(path) for path in sorted((out / "errors").iterdir())]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in ("chosen_V", "rejected_V")}


def test_the_errors_do_not_depend_on_the_number_of_processes_nor_on_an_interruption(
    bench: Any, tmp_path: Path, two_ranks: Any
) -> None:
    visits = reference_errors.PIECE_VISITS + 20
    spec, placement = spec_of(bench.train_spec(), visits), Placement(micro_batch=8)
    one, two = tmp_path / "one", tmp_path / "two"
    assert bench.reference_errors(one, spec, placement) == 0
    arguments = bench.write_job(tmp_path / "job", spec, placement.model_copy(update={"num_processes": 2}), two)
    two_ranks.run("alignment.jobs.reference_errors", arguments)
    assert {name: len(values) for name, values in errors_of(one).items()} == {"chosen_V": visits, "rejected_V": visits}
    for name, values in errors_of(one).items():
        assert torch.equal(errors_of(two)[name], values), "batches of one size round alike"
    result = ReferenceErrors.model_validate_json((two / "result.json").read_text())
    assert (result.num_visits, result.key, result.spec_digest) == (visits, spec.key, spec.digest)
    assert lines_of(one)[-1]["metrics"]["pairs_per_second"] > 0
    for name in ("result.json", "errors/00001.safetensors"):
        (one / name).unlink()
    kept = (one / "errors/00000.safetensors").stat().st_mtime_ns
    assert bench.reference_errors(one, spec, placement) == 0
    assert (one / "errors/00000.safetensors").stat().st_mtime_ns == kept, "a finished piece is not computed again"
    assert torch.equal(errors_of(one)["chosen_V"], errors_of(two)["chosen_V"])


def test_pairs_of_all_shapes_get_their_errors(
    bucketed_bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None]
) -> None:
    spec = bucketed_bench.train_spec(steps=4)
    assert bucketed_bench.train(tmp_path / "plain", spec, QUIET) == 0
    shared = with_errors(bucketed_bench, tmp_path, spec)
    assert shared.train(tmp_path / "shared", spec, QUIET) == 0
    assert_one_curve(bucketed_bench, spec, curve_of(tmp_path / "shared"), curve_of(tmp_path / "plain"))


def test_errors_under_separate_captions_are_others(
    captioned_bench: Any, tmp_path: Path, assert_one_curve: Callable[..., None]
) -> None:
    spec = captioned_bench.train_spec(objective={"name": "dcpo", "beta": 500.0}, steps=4)
    assert captioned_bench.train(tmp_path / "plain", spec, QUIET) == 0
    shared = with_errors(captioned_bench, tmp_path, spec)
    assert shared.train(tmp_path / "shared", spec, QUIET) == 0
    assert_one_curve(captioned_bench, spec, curve_of(tmp_path / "shared"), curve_of(tmp_path / "plain"))


def test_a_full_fine_tune_with_the_errors_loads_no_copy_before_its_end(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.train_spec(tuning={"kind": "full"}, steps=2)
    shared = with_errors(bench, tmp_path, spec)
    loaded: list[int] = []
    honest, record = StableDiffusionBackbone.load_denoiser, loop.append_metrics

    def load(self: StableDiffusionBackbone, *given: Any) -> torch.nn.Module:
        loaded.append(1)
        return honest(self, *given)

    def append(out: Path, done: int, metrics: dict[str, float]) -> None:
        record(out, done, metrics)
        if done == 1:
            assert loaded == [1]

    monkeypatch.setattr(StableDiffusionBackbone, "load_denoiser", load)
    monkeypatch.setattr(loop, "append_metrics", append)
    assert shared.train(tmp_path / "out", spec, QUIET) == 0
    assert len(loaded) == 2, "the last step compares the predictions with the base's"


def test_too_few_visits_and_damaged_errors_are_refused(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec()
    few = with_errors(bench, tmp_path, spec, visits=79)
    assert few.train(tmp_path / "few", spec, QUIET) == 2
    assert "are of 79 visits of pairs, and the run has 80" in failure_of(tmp_path / "few").message
    piece = tmp_path / "errors_out" / "errors" / "00000.safetensors"
    piece.write_bytes(piece.read_bytes()[:-40])
    assert few.train(tmp_path / "damaged", bench.train_spec(steps=2), QUIET) == 1
    assert failure_of(tmp_path / "damaged").kind == "bad_data"
    shutil.rmtree(piece.parent)
    assert few.train(tmp_path / "gone", bench.train_spec(steps=2), QUIET) == 1
    assert failure_of(tmp_path / "gone").kind == "bad_data"


def test_errors_of_another_seed_are_not_used(bench: Any, tmp_path: Path) -> None:
    shared = with_errors(bench, tmp_path, bench.train_spec())
    assert shared.train(tmp_path / "out", bench.train_spec(seed=4, steps=2), QUIET) == 0
    assert f"{HEALTH}reference_milliseconds" in lines_of(tmp_path / "out")[0]["metrics"]
