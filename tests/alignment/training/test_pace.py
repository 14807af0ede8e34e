"""Pace by the median step, of processes on the same device; too short attempts state none."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import PACE_FILE, Placement, TrainingPace
from alignment.data.features import CachedFeatures
from alignment.training import pace
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.offline_update import OfflineUpdate
from alignment.training.pace import LEAST_STEPS, WARM_UP_STEPS, PaceMeter, keep_pace

pytestmark = pytest.mark.timeout(300)
CPU = torch.device("cpu")


class Processes:
    """An accelerator of several processes; `others` are the numbers that the second one gives."""

    def __init__(self, num_processes: int = 1, others: list[float] | None = None) -> None:
        self.num_processes, self.others = num_processes, others
        self.device = CPU

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        if self.others is None:
            return own
        return torch.cat([own, torch.tensor([self.others], dtype=own.dtype)])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that advances the clock of the meter."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def timed(accelerator: Any, advance: Callable[[float], None], steps: list[float]) -> PaceMeter:
    meter = PaceMeter(accelerator)
    for seconds in steps:
        meter.start()
        advance(seconds)
        assert meter.stop() == pytest.approx(seconds)
        advance(100.0)  # between two steps: images and checkpoints
    return meter


STEPS = [*[50.0] * WARM_UP_STEPS, 9.0, *[2.0] * (LEAST_STEPS - 1)]


def test_the_pace_is_that_of_the_median_step_after_the_warm_up(clock: Callable[[float], None]) -> None:
    found = timed(Processes(), clock, STEPS).measured(8, 3, checkpointed_every=2)
    assert found is not None
    assert (found.pairs_per_second, found.steps, found.device, found.peak_gib) == (4.0, LEAST_STEPS, "cpu", 0.0)
    assert (found.num_processes, found.micro_batch, found.checkpointed_every) == (1, 3, 2)


def test_a_process_holds_its_share_of_the_batch_at_most(clock: Callable[[float], None]) -> None:
    found = timed(Processes(), clock, STEPS).measured(8, 64, checkpointed_every=0)
    assert found is not None
    assert found.micro_batch == 8


def test_the_slowest_process_and_the_largest_peak_count(clock: Callable[[float], None]) -> None:
    same = float(pace.zlib.crc32(b"cpu"))
    processes = Processes(2, [4.0, 3 * 2.0**30, same, -same])
    found = timed(processes, clock, STEPS).measured(8, 64, checkpointed_every=0)
    assert found is not None
    assert (found.pairs_per_second, found.peak_gib, found.micro_batch) == (1.0, 3.0, 4)


def test_processes_on_different_devices_state_no_pace(clock: Callable[[float], None]) -> None:
    for other in (1.0, 2.0**32):
        meter = timed(Processes(2, [2.0, 0.0, other, -other]), clock, STEPS)
        assert meter.measured(8, 4, checkpointed_every=0) is None


def test_a_short_attempt_states_no_pace(clock: Callable[[float], None]) -> None:
    assert timed(Processes(), clock, STEPS[:-1]).measured(8, 4, checkpointed_every=0) is None


def test_no_file_of_an_earlier_attempt_stays(tmp_path: Path, clock: Callable[[float], None]) -> None:
    found = timed(Processes(), clock, STEPS).measured(8, 4, checkpointed_every=0)
    keep_pace(tmp_path, found)
    assert TrainingPace.model_validate_json((tmp_path / PACE_FILE).read_bytes()) == found
    keep_pace(tmp_path, None)
    assert not (tmp_path / PACE_FILE).exists()


@pytest.mark.parametrize("blocks", ["none", "every_n"])
def test_a_run_writes_its_pace_with_what_it_did(bench: Any, tmp_path: Path, blocks: str) -> None:
    spec = bench.train_spec(steps=WARM_UP_STEPS + LEAST_STEPS)
    placement = Placement(micro_batch=2, gradient_checkpointing=blocks, checkpointed_every=3)
    backbone = StableDiffusionBackbone(bench.inputs / spec.base_digest, spec.recipe.backbone)
    features = CachedFeatures(bench.inputs / spec.cache_digest)
    TrainingRun(RunInputs(spec, placement, backbone, partial(OfflineUpdate, features), tmp_path)).run()
    found = TrainingPace.model_validate_json((tmp_path / PACE_FILE).read_bytes())
    assert (found.device, found.micro_batch, found.steps) == ("cpu", 2, LEAST_STEPS)
    assert found.checkpointed_every == (3 if blocks == "every_n" else 0)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    paces = sorted(json.loads(line)["metrics"]["pairs_per_second"] for line in lines[WARM_UP_STEPS:])
    assert paces[0] <= found.pairs_per_second <= paces[-1]
