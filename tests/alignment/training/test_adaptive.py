"""The probe on invented passes, and a real run under a simulated limit: same curve, stepped down, resumed."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.config import load_recipe
from alignment.contracts.jobs import (
    WEIGHTS_DIR,
    JobStoppedError,
    Placement,
    PlacementChoice,
    PlacementTrial,
)
from alignment.contracts.training import TrainSpec, check_adaptive
from alignment.data.features import CachedFeatures
from alignment.training import adaptive
from alignment.training.adaptive import (
    Branch,
    Probe,
    check_deadline,
    keep_choice,
    read_choice,
    stepped_down,
    train_adaptively,
)
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.memory_meter import HostMeter, Reading
from alignment.training.offline_update import OfflineUpdate

pytestmark = pytest.mark.timeout(300)
GIB = 2**30


class Device:
    """An update and its meter: a pass of `size` takes seconds[size], and size GiB beside 1 GiB of weights."""

    def __init__(self, seconds: dict[int, float], *, limit: float, most: int, honest: bool = True) -> None:
        self.seconds, self.limit, self.most, self.honest = seconds, limit, most, honest
        self.size = 0
        self.share, self.slower = 1.0, 1.0
        self.tried: list[int] = []
        self.cleared = 0

    def largest_micro_batch(self) -> int:
        return self.most

    def set_micro_batch(self, size: int) -> None:
        self.size = size

    def try_pass(self, size: int) -> int:
        self.size = size
        self.tried.append(size)
        if not self.honest and size > self.limit:
            raise torch.OutOfMemoryError
        return size

    def available(self) -> float:
        return self.limit * GIB

    def measure(self, work: Callable[[], object]) -> Reading:
        work()
        held = 1 + self.share * self.size if self.honest else 0
        return Reading(self.slower * self.seconds[self.size], held * GIB)

    def clear(self) -> None:
        self.cleared += 1

    def choose(self, **fields: Any) -> PlacementChoice:
        return Probe(self, self, clear=self.clear, agree=fields.pop("agree", list), **fields).choose()


PROPORTIONAL = {size: float(size) for size in (1, 2, 4, 6, 8, 16)}
OVERHEAD = {size: 1.0 + size / 10 for size in (1, 2, 4, 6, 8, 16)}


def test_the_fastest_size_that_fits_is_chosen_and_every_gradient_discarded() -> None:
    device = Device(OVERHEAD, limit=9.5, most=16)
    choice = device.choose()
    assert (choice.micro_batch, device.size) == (8, 8)
    assert device.cleared == len(device.tried)
    assert 16 not in device.tried, "two trials show that it would not fit"
    assert [trial.peak_gib for trial in choice.trials] == [2, 3, 5, 9]


def test_a_size_that_is_not_worth_its_memory_is_not_chosen() -> None:
    assert Device(PROPORTIONAL, limit=100, most=16).choose().micro_batch == 1


def test_the_share_of_the_batch_is_the_most() -> None:
    device = Device(OVERHEAD, limit=100, most=6)
    assert device.choose().micro_batch == 6
    assert sorted(set(device.tried)) == [1, 2, 4, 6]


def test_out_of_memory_ends_the_search_and_is_recorded() -> None:
    choice = Device(OVERHEAD, limit=4, most=16, honest=False).choose()
    assert choice.micro_batch == 4
    assert [trial.fits for trial in choice.trials] == [True, True, True, False]
    assert choice.trials[-1].pairs_per_second == 0


def test_memory_of_later_steps_is_kept_free() -> None:
    assert Device(OVERHEAD, limit=9.5, most=16).choose(reserved_bytes=5 * GIB).micro_batch == 2


def test_processes_agree_on_the_worst_of_all() -> None:
    def other_runs_out_at_four(values: Any) -> list[float]:
        mine = list(values)
        if len(mine) == 2 and device.tried[-1] >= 4:
            return [mine[0], math.inf]
        return mine

    device = Device(OVERHEAD, limit=100, most=16)
    assert device.choose(agree=other_runs_out_at_four).micro_batch == 2


def test_branches_are_compared_and_the_chosen_one_is_set() -> None:
    device = Device(OVERHEAD, limit=4.5, most=8)
    applied: list[str] = []

    def lighter() -> None:
        """A pass holds a quarter and takes a tenth longer."""
        applied.append("all")
        device.share, device.slower = 0.25, 1.1

    def plain() -> None:
        applied.append("none")
        device.share, device.slower = 1.0, 1.0

    branches = (Branch({"blocks": "none"}, plain), Branch({"blocks": "all"}, lighter))
    choice = device.choose(branches=branches)
    assert (choice.settings, choice.micro_batch) == ({"blocks": "all"}, 8)
    assert applied == ["none", "all", "all"]
    assert {tuple(trial.settings.values()) for trial in choice.trials} == {("none",), ("all",)}


def test_one_pair_that_does_not_fit_is_out_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"one pair needs 2\.00 GiB and 1\.50 GiB are available"):
        Device(OVERHEAD, limit=1.5, most=16).choose()


def test_a_slow_probe_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "PROBE_SECONDS", 2.0)
    device = Device(OVERHEAD, limit=100, most=16)
    device.choose()
    assert max(device.tried) == 1


# --- a real run -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def make_run(bench: Any, spec: TrainSpec, out: Path, meter: HostMeter | None = None, **placement: Any) -> TrainingRun:
    out.mkdir(exist_ok=True)
    backbone = StableDiffusionBackbone(bench.inputs / spec.base_digest, spec.recipe.backbone)
    features = CachedFeatures(bench.inputs / spec.cache_digest)
    inputs = RunInputs(spec, Placement(**placement), backbone, partial(OfflineUpdate, features), out, meter)
    return TrainingRun(inputs)


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["metrics"]["loss"] for line in lines]


def peak_of(bench: Any, spec: TrainSpec, out: Path, size: int) -> float:
    run = make_run(bench, spec, out, micro_batch=1)
    return HostMeter(math.inf).measure(lambda: run.update.try_pass(size)).peak_bytes  # type: ignore[attr-defined]


def test_a_run_fits_the_simulated_limit_and_its_curve_is_that_of_the_micro_batch(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(global_batch=4, steps=2)
    limit = (peak_of(bench, spec, tmp_path / "a", 2) + peak_of(bench, spec, tmp_path / "b", 4)) / 2
    # The optimiser's states are not among what a pass keeps.
    run = make_run(bench, spec, tmp_path / "auto", HostMeter(limit + 8 * 10**9), auto=True)
    run.run()
    assert run.micro_batch in (1, 2, 4)
    states = 8 * sum(weight.numel() for weight in run.weights)
    run = make_run(bench, spec, tmp_path / "limited", HostMeter(limit + states), auto=True)
    run.run()
    assert run.micro_batch in (1, 2)
    choice = read_choice(tmp_path / "limited")
    assert choice is not None
    assert not any(trial.fits for trial in choice.trials if trial.micro_batch == 4)
    make_run(bench, spec, tmp_path / "fixed", micro_batch=run.micro_batch).run()
    assert losses(tmp_path / "limited") == losses(tmp_path / "fixed")
    last = (tmp_path / "limited" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["metrics"]["micro_batch"] == run.micro_batch


def test_after_running_out_of_memory_training_continues_with_half_from_its_checkpoint(
    bench: Any, tmp_path: Path
) -> None:
    spec, out = bench.train_spec(global_batch=4, steps=4), tmp_path / "out"
    keep = {"checkpoint_every_steps": 2, "auto": True}
    out.mkdir()
    keep_choice(out, PlacementChoice(micro_batch=4, available_gib=1.0, trials=()))
    seen: list[tuple[int, int | None]] = []

    def attempt() -> None:
        run = make_run(bench, spec, out, **keep)
        honest, first = run.update.__call__, run.done

        def limited(step: int) -> Any:
            if step == first:
                seen.append((step, run.micro_batch))
            if step == 3 and run.micro_batch == 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return honest(step)

        run.update = LimitedUpdate(run.update, limited)  # type: ignore[assignment]
        run.run()

    train_adaptively(attempt, out, alone=True)
    assert seen == [(0, 4), (2, 2)]
    choice = read_choice(out)
    assert choice is not None
    assert (choice.micro_batch, choice.steps_down) == (2, 1)
    make_run(bench, spec, tmp_path / "plain", micro_batch=4).run()
    # Another division of the batch adds up in another order.
    assert losses(out) == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


class LimitedUpdate:
    """An update whose call is replaced."""

    def __init__(self, inner: Any, call: Callable[[int], Any]) -> None:
        self.inner, self.call = inner, call

    def __call__(self, step: int) -> Any:
        return self.call(step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def fails() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_with_other_processes_the_job_stops_and_its_next_attempt_continues(tmp_path: Path) -> None:
    keep_choice(tmp_path, PlacementChoice(micro_batch=8, available_gib=1.0, trials=()))
    with pytest.raises(
        JobStoppedError, match="Out of memory with micro_batch 8; continuing with micro_batch 4"
    ) as stopped:
        train_adaptively(fails, tmp_path, alone=False)
    assert stopped.value.kind == "preempted"
    choice = read_choice(tmp_path)
    assert choice is not None
    assert choice.micro_batch == 4


def test_without_a_choice_or_below_one_pair_the_error_stands(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        train_adaptively(fails, tmp_path, alone=True)
    keep_choice(tmp_path, PlacementChoice(micro_batch=1, available_gib=1.0, trials=()))
    with pytest.raises(torch.OutOfMemoryError):
        train_adaptively(fails, tmp_path, alone=True)


def choice_of(micro_batch: int, blocks: str = "none", **fields: Any) -> PlacementChoice:
    """A choice of two branches: 4 and 8 pairs/s of a process with 1 and 2 pairs, half of that with checkpointing."""
    trials = tuple(
        PlacementTrial(micro_batch=size, settings={"blocks": name}, pairs_per_second=pace * size, peak_gib=1, fits=True)
        for name, pace in (("none", 4.0), ("all", 2.0))
        for size in (1, 2)
    )
    facts = {"micro_batch": micro_batch, "settings": {"blocks": blocks}, "available_gib": 1.0, "trials": trials}
    return PlacementChoice(**(facts | fields))


def test_a_step_down_halves_the_micro_batch_and_then_takes_the_next_branch() -> None:
    choice: PlacementChoice | None = choice_of(7)
    seen = []
    while choice is not None:
        seen.append((choice.micro_batch, choice.settings["blocks"], choice.steps_down))
        choice = stepped_down(choice)
    assert seen == [(7, "none", 0), (3, "none", 1), (1, "none", 2), (1, "all", 3)]
    assert stepped_down(PlacementChoice(micro_batch=1, available_gib=1.0, trials=())) is None


def test_memory_that_another_process_takes_meanwhile_makes_training_step_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """9.5 GiB are free at first, then 4, then 1.6. A pass holds 1 GiB and 1 GiB a pair, half of that with blocks."""
    device = Device(OVERHEAD, limit=9.5, most=16, honest=False)
    free, chosen = iter([9.5, 4.0, 4.0, 4.0, 1.6, 1.6, 1.6]), list[tuple[int, str]]()
    branches = [
        Branch({"blocks": name}, partial(setattr, device, "share", share))
        for name, share in (("none", 1), ("all", 0.5))
    ]

    def attempt() -> None:
        probe = Probe(device, device, clear=device.clear, agree=list, branches=branches)
        choice = adaptive.chosen_placement(probe, tmp_path, keep=True)
        chosen.append((choice.micro_batch, choice.settings["blocks"]))
        for available in free:
            if 1 + device.share * device.size > available:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    train_adaptively(attempt, tmp_path, alone=True)
    assert chosen == [(8, "none"), (4, "none"), (2, "none"), (1, "none"), (1, "all")]
    assert "Out of memory with micro_batch 1, blocks none; continuing with micro_batch 1, blocks all." in caplog.text


# --- the deadline -----------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_meet_its_deadline_stops_before_its_first_step() -> None:
    """Two processes with 2 pairs at 8 pairs/s each: 57,600 pairs take an hour."""
    fine: dict[str, Any] = {"num_pairs": 57_600, "num_processes": 2, "may_stop": True}
    check_deadline(choice_of(2), 1.0, **fine)
    check_deadline(choice_of(2), None, num_pairs=10**12, num_processes=1, may_stop=True)
    with pytest.raises(JobStoppedError) as stopped:
        check_deadline(choice_of(2), 0.5, **fine)
    assert stopped.value.kind == "bad_input"
    assert stopped.value.message == (
        "Training needs at least 1 hours, and placement.train.deadline_hours = 0.5: 57,600 pairs at 16 pairs/s,"
        " measured with micro_batch 2, blocks none, the fastest that fits. Raise deadline_hours, use more or faster"
        " GPUs, or lower steps or global_batch in the recipe."
    )
    with pytest.raises(JobStoppedError, match="at least 2 hours"):
        check_deadline(choice_of(2, "all"), 1.5, **fine)


def test_a_run_that_stepped_down_goes_on_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"num_pairs": 57_600, "num_processes": 2}
    check_deadline(choice_of(1, steps_down=1), 1.5, **given, may_stop=True)
    assert "needs at least 2 hours" in caplog.text
    assert "Training continues." in caplog.text
    caplog.clear()
    check_deadline(choice_of(3, steps_down=1), 0.1, **given, may_stop=True)
    assert not caplog.text, "no trial measured this size"
    check_deadline(choice_of(2), 0.5, **given, may_stop=False)
    assert "Training continues." in caplog.text


def test_a_deadline_needs_a_measurement() -> None:
    with pytest.raises(ValueError, match="deadline_hours needs auto = true"):
        Placement(deadline_hours=5)
    assert Placement(deadline_hours=5, auto=True).deadline_hours == 5


def test_the_loop_compares_the_whole_run_with_the_deadline(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(global_batch=4, steps=2)
    run = make_run(bench, spec, tmp_path / "late", HostMeter(math.inf), auto=True, deadline_hours=1e-9)
    with pytest.raises(JobStoppedError, match=r"deadline_hours = 1e-09: 8 pairs at"):
        run.run()
    assert not (tmp_path / "late" / "metrics.jsonl").exists()
    make_run(bench, spec, tmp_path / "fine", HostMeter(math.inf), auto=True, deadline_hours=24).run()


def test_a_resumed_or_smaller_run_is_not_stopped_for_its_deadline(bench: Any, tmp_path: Path) -> None:
    spec = bench.train_spec(global_batch=4, steps=3)
    first = make_run(bench, spec, tmp_path / "run", HostMeter(math.inf), auto=True, checkpoint_every_steps=1)
    first.run()
    shutil.rmtree(tmp_path / "run" / WEIGHTS_DIR)
    late: dict[str, Any] = {"auto": True, "deadline_hours": 1e-9, "checkpoint_every_steps": 1}
    resumed = make_run(bench, spec, tmp_path / "run", HostMeter(math.inf), **late)
    assert resumed.done > 0
    resumed.run()
    make_run(bench, spec, tmp_path / "small", HostMeter(math.inf), **late, engine="ray", num_processes=2).run()


def test_online_recipes_and_shards_have_no_adaptive_placement() -> None:
    offline, online = load_recipe("diffusion_dpo_shapes"), load_recipe("prdp_shapes")
    check_adaptive(offline, Placement(auto=True))
    check_adaptive(online, Placement())
    with pytest.raises(ValueError, match=r"'prdp' draws images, .* Set auto = false"):
        check_adaptive(online, Placement(auto=True))
    with pytest.raises(ValueError, match="sharding = 'fsdp2' makes all processes run the same passes"):
        check_adaptive(offline, Placement(auto=True, sharding="fsdp2", num_processes=2))
