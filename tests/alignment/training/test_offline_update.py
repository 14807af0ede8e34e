"""A step on a feature cache: one gradient however the global batch is split."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import JobStoppedError, Placement, norm_ratios
from alignment.contracts.training import TrainSpec
from alignment.data.features import CachedFeatures
from alignment.training.batches import Visit, assemble
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.offline_update import OfflineUpdate
from alignment.training.prediction_norm import norm_metrics

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def run_of(bench: Any, spec: TrainSpec, out: Path) -> Any:
    out.mkdir(exist_ok=True)
    assert spec.cache_digest is not None
    backbone = StableDiffusionBackbone(bench.inputs / spec.base_digest, spec.recipe.backbone)
    features = CachedFeatures(bench.inputs / spec.cache_digest)
    return TrainingRun(RunInputs(spec, Placement(), backbone, partial(OfflineUpdate, features), out))


def gradients(run: Any, batches: list[list[Visit]]) -> torch.Tensor:
    run.update.accumulate(batches)
    return torch.cat([weight.grad.flatten() for weight in run.weights if weight.grad is not None])


def test_gradient_is_the_mean_over_the_global_batch_however_it_is_split(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(global_batch=5, tuning={"kind": "full"})
    visits = [Visit(pair, 0) for pair in range(5)]
    splits: list[list[list[Visit]]] = [[visits], [visits[:4], visits[4:]], [[visit] for visit in visits]]
    splits.append([[*visits[:2], Visit(9, 0, weight=0.0)], visits[2:]])
    run = run_of(bench, spec, tmp_path / "out")
    expected_run = run_of(bench, spec, tmp_path / "expected")
    update = expected_run.update
    batch = assemble(visits, update.features, spec.recipe, expected_run.backbone.schedule)
    update.step(batch).loss_B.mean().backward()
    expected = torch.cat([weight.grad.flatten() for weight in expected_run.weights if weight.grad is not None])
    for split in splits:
        run.optimiser.zero_grad()
        assert (gradients(run, split) - expected).norm() < 1e-4 * expected.norm()


def test_a_run_may_pause_before_any_step(bench: Any, tmp_path: Path) -> None:
    run = run_of(bench, bench.train_spec(), tmp_path / "out")
    assert all(run.update.may_pause(step) for step in range(5))
    assert run.update.unit == "pairs"


@pytest.mark.parametrize("objective", ["diffusion_dpo", "mapo"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_norm_of_predictions_is_that_of_the_base_until_weights_change(
    bench: Any, tmp_path: Path, objective: str, tuning: str
) -> None:
    spec = bench.train_spec(objective={"name": objective}, tuning={"kind": tuning})
    run = run_of(bench, spec, tmp_path / "out")
    unchanged = norm_ratios(norm_metrics(run.update.norms()))
    assert unchanged == pytest.approx((1, 1, 1, 1), abs=1e-6)
    with torch.no_grad():
        run.denoiser.conv_out.weight *= 2
        run.denoiser.conv_out.bias *= 2
    ratios = norm_ratios(norm_metrics(run.update.norms()))
    # The adapter's base is the same network without the adapter, so its last layer is doubled as well.
    assert ratios == pytest.approx((1, 1, 1, 1) if tuning == "lora" else (2, 2, 2, 2), abs=1e-5)


def test_the_norms_depend_neither_on_the_seed_nor_on_labels(bench: Any, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 99}, {"flip_labels": True, "caption_dropout": 0.5}]
    found = []
    for number, change in enumerate(changes):
        run = run_of(bench, bench.train_spec(tuning={"kind": "full"}, **change), tmp_path / str(number))
        with torch.no_grad():
            run.denoiser.conv_in.weight *= 1.5
        found.append(norm_ratios(norm_metrics(run.update.norms())))
    assert found[1] == found[0] == pytest.approx(found[2], rel=1e-5)
    assert max(abs(ratio - 1) for ratio in found[0]) > 1e-3


def test_batches_are_assembled_ahead_and_give_the_same_sums_as_in_their_step(bench: Any, tmp_path: Path) -> None:
    """Bit for bit, in and out of order: what a batch holds depends on its visits only."""
    run = run_of(bench, bench.train_spec(global_batch=20), tmp_path / "out")
    update = run.update
    inline = {step: update.accumulate(update.my_batches(step)) for step in (0, 1, 2, 7)}
    for step in (0, 1, 2, 7, 1, 2):
        sums = update(step)
        assert {name: value.item() for name, value in sums.items()} == {
            name: value.item() for name, value in inline[step].items()
        }
    thread = update._ahead._thread
    update.close()
    assert not thread.is_alive()
    update.close()


def test_a_damaged_pair_is_reported_by_the_step_that_needs_it(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(bench, bench.train_spec(steps=4, global_batch=4), tmp_path / "out")
    features, honest = run.update.features, run.update.features.pair
    victim = run.update.my_batches(2)[0][0].pair

    def pair(index: int) -> Any:
        if index == victim:
            raise JobStoppedError("bad_data", f"pair {index} is damaged")
        return honest(index)

    monkeypatch.setattr(features, "pair", pair)
    with pytest.raises(JobStoppedError, match=f"pair {victim} is damaged"):
        run.run()
    assert run.done == 2, "the steps before it are complete"
    assert run.update._ahead is None, "the thread was stopped"


def test_a_step_that_fails_in_its_middle_is_repeated_from_its_beginning(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(bench, bench.train_spec(global_batch=20), tmp_path / "out")
    update = run.update
    expected = update.accumulate(update.my_batches(1))
    update(0)
    honest, calls = update.step, []

    def full(batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return honest(batch)

    monkeypatch.setattr(update, "step", full)
    with pytest.raises(torch.OutOfMemoryError):
        update(1)
    assert update(1)["loss"].item() == expected["loss"].item()
    update.close()


def test_the_operations_of_a_step_are_counted_once_where_the_card_is_known(bench: Any, tmp_path: Path) -> None:
    run = run_of(bench, bench.train_spec(), tmp_path / "out")
    run.health._peak = 1e12
    run.update(0)
    counted = run.health.flops_per_step
    assert counted > 0
    run.update(1)
    assert run.health.flops_per_step == counted
    run.update.close()
