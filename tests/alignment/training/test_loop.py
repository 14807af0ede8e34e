"""The loop's arithmetic on one process; interruptions and several processes are in jobs/test_train.py."""

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import HEALTH, Placement
from alignment.contracts.precision import FrozenWeights
from alignment.contracts.training import TrainSpec
from alignment.data.features import CachedFeatures
from alignment.training import loop
from alignment.training.checkpoint import CheckpointFolder, TrainingState
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.metrics import read_lines
from alignment.training.offline_update import OfflineUpdate
from alignment.training.update import Workbench

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)

OF_THE_HOST = {"pairs_per_second", "resident_memory_gib"}


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


def test_the_host_waits_for_the_device_once_in_a_step(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value that the host reads makes a GPU finish its queue first. The other tensors read are on the host."""
    run = run_of(bench, bench.train_spec(steps=3), tmp_path / "out", micro_batch=4)
    read: list[str] = []
    within = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        honest = getattr(torch.Tensor, name)

        def spy(self: Any, *, name: str = name, honest: Any = honest) -> Any:
            if within and self.dtype.is_floating_point and threading.current_thread() is threading.main_thread():
                read.append(name)
            return honest(self)

        monkeypatch.setattr(torch.Tensor, name, spy)
    step = run._step

    def counted(stop: Any) -> Any:
        within.append(1)
        found = step(stop)
        within.clear()
        return found

    monkeypatch.setattr(run, "_step", counted)
    monkeypatch.setattr(run.optimiser, "step", lambda: None)  # it reads its own step counts, which are on the host
    run.run()
    assert read == ["tolist"] * 3


def test_metrics_say_how_long_each_phase_took(bench: Any, tmp_path: Path) -> None:
    run_of(bench, bench.train_spec(steps=4), tmp_path / "out", log_every_steps=2, checkpoint_every_steps=2).run()
    first, last = (
        json.loads(line)["metrics"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    )
    phases = {"data", "forward", "reference", "backward", "optimiser"}
    assert {f"{HEALTH}{phase}_milliseconds" for phase in phases} | {f"{HEALTH}idle_share"} <= first.keys()
    assert f"{HEALTH}checkpoint_milliseconds" not in first
    assert last[f"{HEALTH}checkpoint_milliseconds"] > 0, "of the checkpoint after the line before"
    assert 0 <= last[f"{HEALTH}idle_share"] < 1


def metrics_of(out: Path) -> list[dict[str, float]]:
    """The metrics of each step that do not depend on the host."""
    lines = [json.loads(line)["metrics"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in OF_THE_HOST and not name.startswith(HEALTH)}
        for line in lines
    ]


class PretendedGpu:
    """A GPU of 100 GiB on which a pass needs 95 GiB, and with every second block checkpointed 50 GiB."""

    def __init__(self) -> None:
        self.peaks = [95, 50]

    def usable(self) -> int:
        return 100 * 2**30

    def reset(self) -> None:
        pass

    def peak(self) -> int:
        return self.peaks.pop(0) * 2**30


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_auto_is_found_by_passes_that_leave_no_trace(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level("INFO")
    tuning = {"kind": "lora", "rank": 4, "alpha": 4} if kind == "lora" else {"kind": "full"}
    spec = bench.train_spec(tuning=tuning, steps=3)
    run_of(bench, spec, tmp_path / "none", micro_batch=4, gradient_checkpointing="none").run()
    assert "gradient checkpointing" not in caplog.text
    memory = PretendedGpu()
    monkeypatch.setattr(loop, "memory_of", lambda device: memory)
    run = run_of(bench, spec, tmp_path / "auto", micro_batch=4)
    run.run()
    assert memory.peaks == []
    assert "gradient checkpointing: every_n" in caplog.text
    assert metrics_of(tmp_path / "auto") == metrics_of(tmp_path / "none")


def test_training_goes_on_while_a_checkpoint_is_written(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, honest = tmp_path / "out", CheckpointFolder.save

    def save(self: CheckpointFolder, state: TrainingState, *arguments: Any) -> Path:
        assert [line["step"] for line in read_lines(out / "metrics.jsonl")][: state.step][-1] == state.step
        deadline = time.monotonic() + 60
        while len(read_lines(out / "metrics.jsonl")) <= state.step:
            assert time.monotonic() < deadline, "training waited for the checkpoint"
            time.sleep(0.005)
        return honest(self, state, *arguments)

    monkeypatch.setattr(CheckpointFolder, "save", save)
    run = run_of(bench, bench.train_spec(steps=7), out, micro_batch=4, checkpoint_every_steps=3)
    run.run()
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_000003", "step_000006"]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_next_step(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: CheckpointFolder, *arguments: Any) -> Path:
        raise OSError("broken disk")

    monkeypatch.setattr(CheckpointFolder, "save", save)
    run = run_of(bench, bench.train_spec(), tmp_path / "out", micro_batch=4, checkpoint_every_steps=3)
    honest = loop.append_metrics

    def append(out: Path, done: int, metrics: dict[str, float]) -> None:
        honest(out, done, metrics)
        deadline = time.monotonic() + 60
        while done == 4 and run.saves._pending is not None and not run.saves._pending.done():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    monkeypatch.setattr(loop, "append_metrics", append)
    with pytest.raises(OSError, match="broken disk"):
        run.run()
    assert run.done in (3, 4), "step 4 may begin before the thread has stopped, step 5 may not"
    assert not (tmp_path / "out" / "weights").exists()


def trained(run: TrainingRun) -> torch.Tensor:
    run.run()
    return torch.cat([weight.detach().flatten() for weight in run.weights])


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


def test_channels_last_keeps_the_curve_and_the_layout_of_written_weights(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(steps=2, tuning={"kind": "full"})
    plain = run_of(bench, spec, tmp_path / "plain", micro_batch=8)
    changed = run_of(bench, spec, tmp_path / "changed", micro_batch=8, channels_last=True)
    convolutions = [weight for weight in changed.weights if weight.ndim == 4 and min(weight.shape[1:]) > 1]
    assert convolutions
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    torch.testing.assert_close(trained(changed), trained(plain), rtol=1e-2, atol=1e-5)
    (file,) = (tmp_path / "changed" / "weights").rglob("*.safetensors")
    written = dict(changed.denoiser.named_parameters())
    for name, tensor in load_file(file).items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor, written[name])


def test_a_frozen_copy_has_its_channels_last_too(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[torch.nn.Module] = []
    honest = Workbench.load_base

    def load_base(self: Workbench) -> torch.nn.Module:
        copies.append(honest(self))
        return copies[-1]

    monkeypatch.setattr(Workbench, "load_base", load_base)
    spec = bench.train_spec(steps=1, tuning={"kind": "full"})
    run_of(bench, spec, tmp_path / "out", micro_batch=8, channels_last=True)
    assert len(copies) == 1
    first = next(weight for weight in copies[0].parameters() if weight.ndim == 4)
    assert first.is_contiguous(memory_format=torch.channels_last)
