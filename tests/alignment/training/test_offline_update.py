"""A step on a feature cache: one gradient however the global batch is split."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import Placement, norm_ratios
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
