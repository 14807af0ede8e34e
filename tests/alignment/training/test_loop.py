"""The loop's arithmetic on one process; interruptions and several processes are in jobs/test_train.py."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import Placement
from alignment.contracts.precision import FrozenWeights
from alignment.contracts.training import TrainSpec
from alignment.data.features import CachedFeatures
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.offline_update import OfflineUpdate

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def run_of(bench: Any, spec: TrainSpec, out: Path, **placement: Any) -> TrainingRun:
    out.mkdir(exist_ok=True)
    backbone = StableDiffusionBackbone(bench.inputs / spec.base_digest, spec.recipe.backbone)
    features = CachedFeatures(bench.inputs / spec.cache_digest)
    return TrainingRun(RunInputs(spec, Placement(**placement), backbone, partial(OfflineUpdate, features), out))


def test_weights_and_gradient_are_clipped_to_the_recipes_norm(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(max_grad_norm=1e-3, steps=1)
    run = run_of(bench, spec, tmp_path / "out", micro_batch=8)
    norms: list[float] = []
    honest = run.optimiser.step

    def step() -> None:
        norms.append(torch.cat([w.grad.flatten() for w in run.weights if w.grad is not None]).norm().item())
        honest()

    run.optimiser.step = step  # type: ignore[assignment]
    run.run()
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_only_adapters_train_with_lora_and_everything_with_full(bench: Any, tmp_path: Path) -> None:
    lora = run_of(bench, bench.train_spec(), tmp_path / "lora")
    full = run_of(bench, bench.train_spec(tuning={"kind": "full"}), tmp_path / "full")
    count = sum(weight.numel() for weight in full.weights)
    assert sum(weight.numel() for weight in lora.weights) < count / 4
    assert count == sum(weight.numel() for weight in full.denoiser.parameters())
    assert not any(weight.requires_grad for name, weight in lora.denoiser.named_parameters() if "lora_" not in name)


def test_only_an_objective_with_a_reference_loads_a_frozen_copy(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    honest = StableDiffusionBackbone.load_denoiser

    def load_denoiser(
        self: StableDiffusionBackbone, device: torch.device | None = None, storage: FrozenWeights = "fp32"
    ) -> torch.nn.Module:
        loaded.append(honest(self, device, storage))
        return loaded[-1]  # type: ignore[return-value]

    monkeypatch.setattr(StableDiffusionBackbone, "load_denoiser", load_denoiser)
    copies = {}
    for objective in ("mapo", "mapo_paper", "sft", "diffusion_dpo"):
        loaded.clear()
        spec = bench.train_spec(objective={"name": objective}, tuning={"kind": "full"}, steps=1)
        run = run_of(bench, spec, tmp_path / objective, micro_batch=4)
        run.update(0)
        copies[objective] = len(loaded)
        run.run()
        assert len(loaded) == 2, "after the last step the predictions are compared with the base's"
    assert copies == {"mapo": 1, "mapo_paper": 1, "sft": 1, "diffusion_dpo": 2}


def test_log_every_keeps_the_last_step(bench: Any, tmp_path: Path) -> None:
    run_of(bench, bench.train_spec(steps=5), tmp_path / "out", log_every_steps=2).run()
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [line.split('"step":')[1].split(",")[0] for line in lines] == ["2", "4", "5"]


def test_a_base_that_does_not_fit_at_the_end_costs_the_figure_and_not_the_result(
    bench: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(bench, bench.train_spec(steps=1), tmp_path / "out", micro_batch=4)

    def full() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.56 GiB.")

    run.update.norms = full  # type: ignore[method-assign]
    run.run()
    assert list((tmp_path / "out").rglob("*.safetensors"))
    assert "norms of the predictions were not compared" in caplog.text


def trained(run: TrainingRun) -> torch.Tensor:
    run.run()
    return torch.cat([weight.detach().flatten() for weight in run.weights])


def metrics_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_step_that_overflows_fp16_is_repeated_with_a_smaller_scale(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(precision="fp16", steps=2, tuning={"kind": "full"})
    run = run_of(bench, spec, tmp_path / "out", micro_batch=8)
    run.scale.value = 2.0**36
    started = run.scale.value
    weights = trained(run)
    assert run.scale.value < started
    assert run.scale.clean == 2
    calm = run_of(bench, spec, tmp_path / "calm", micro_batch=8)
    calm.scale.value = run.scale.value
    assert torch.equal(weights, trained(calm)), "nothing of the repeated passes stays"


def test_the_scale_of_the_loss_is_in_the_checkpoint(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(precision="fp16", steps=3)
    run = run_of(bench, spec, tmp_path / "out", micro_batch=8, checkpoint_every_steps=1)
    run.scale.value = 2.0**9
    run.run()
    again = run_of(bench, spec, tmp_path / "out", micro_batch=8)
    assert again.done > 0
    assert (again.scale.value, again.scale.clean) == (2.0**9, again.done)


@pytest.mark.parametrize("storage", ["bf16", "int8", "nf4"])
def test_adapters_train_on_stored_weights_and_draw_samples(bench: Any, tmp_path: Path, storage: str) -> None:
    spec = bench.train_spec(precision="bf16", frozen_weights=storage, steps=3)
    run = run_of(bench, spec, tmp_path / "out", micro_batch=8, sample_prompts=("red",), sample_every_steps=3)
    assert {weight.dtype for weight in run.weights} == {torch.float32}
    run.run()
    first, _, last = metrics_of(tmp_path / "out")
    assert first["margin"] == 0, "policy and reference begin as one"
    assert last["margin"] != 0
    assert (tmp_path / "out" / "samples" / "step_000003" / "00.png").is_file()


def test_a_reference_in_bf16_changes_no_weight_of_a_full_fine_tune(bench: Any, tmp_path: Path) -> None:
    """Autocast rounds the matrices of a float32 reference to the same values in every pass."""
    fields = {"precision": "bf16", "tuning": {"kind": "full"}, "steps": 3}
    stored = run_of(bench, bench.train_spec(**fields, frozen_weights="bf16"), tmp_path / "stored", micro_batch=8)
    plain = run_of(bench, bench.train_spec(**fields), tmp_path / "plain", micro_batch=8)
    assert torch.equal(trained(stored), trained(plain))


@pytest.mark.timeout(600)  # compilation takes a minute on a slow core
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own code
def test_compiled_blocks_and_a_fused_optimiser_keep_the_curve(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "programs"))
    spec = bench.train_spec(steps=2)
    plain = trained(run_of(bench, spec, tmp_path / "plain", micro_batch=8))
    options = {"compile_blocks": True, "fused_optimiser": True}
    changed = trained(run_of(bench, spec, tmp_path / "changed", micro_batch=8, **options))
    # AdamW's first step is the rate times the sign of a gradient; the second depends on it smoothly.
    torch.testing.assert_close(changed, plain, rtol=1e-2, atol=1e-5)
