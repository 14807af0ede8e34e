"""One row of training: the project's own loop on random weights and latents, timed where a step begins."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gpu_bench.bases import config_of, digest, family_of, random_weights, resolution_of, stand_in

Row = dict[str, Any]
WARM, TIMED, PROFILED = 3, 6, 2


@dataclass(frozen=True)
class Run:
    """A configuration of the train job."""

    name: str
    base: str
    micro_batch: int
    rank: int = 8
    """Rank of the adapters; 0 for a full fine-tune."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe beyond the common ones."""
    placement: dict[str, Any] = field(default_factory=dict)


class _EnoughError(Exception):
    """The measured steps are over."""


class _Timed:
    """An update that notes when each step begins, and ends the run after the last."""

    def __init__(self, inner: Any, begin: Callable[[int], None]) -> None:
        self._inner, self._begin = inner, begin

    def __call__(self, step: int) -> Any:
        self._begin(step)
        return self._inner(step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def measure(run: Run, work: Path, *, tiny: bool) -> Row:
    """Measure a run; the row has `error` instead of figures when this version lacks a setting, or memory runs out."""
    import torch
    from pydantic import ValidationError

    row: Row = {"name": run.name, "base": run.base, "micro_batch": 2 if tiny else run.micro_batch}
    row["base_device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    try:
        return row | _measured(run, work, tiny=tiny)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        return row | {"error": f"not in this version: {fields}"}
    except torch.OutOfMemoryError as error:
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        return row | {"error": f"out of memory: {str(error)[:80]}", "peak_gib": peak}


def _measured(run: Run, work: Path, *, tiny: bool) -> Row:
    import torch

    from alignment.catalogues.lookup import resolve
    from alignment.contracts.jobs import Placement
    from alignment.data.features import CachedFeatures
    from alignment.training.loop import RunInputs, TrainingRun
    from alignment.training.offline_update import OfflineUpdate

    batch = 2 if tiny else run.micro_batch
    spec = _spec(run, batch, tiny=tiny)
    placement = Placement.model_validate({"micro_batch": batch, "checkpoint_every_steps": 10_000, **run.placement})
    inputs = work / "inputs"
    stand_in(inputs, run.base, tiny=tiny)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = work / "runs" / f"{run.name.replace(' ', '_')}_{batch}_{time.time_ns()}"
    out.mkdir(parents=True)
    params = spec.recipe.backbone
    with random_weights(run.base, device):
        backbone = resolve(params.implementation)(inputs / spec.base_digest, params, device)
        make_update = partial(OfflineUpdate, CachedFeatures(inputs / spec.cache_digest))
        training = TrainingRun(RunInputs(spec, placement, backbone, make_update, out))
        clock = _Steps(device)
        training.update = _Timed(training.update, clock.begin)  # type: ignore[assignment]
        with contextlib.suppress(_EnoughError):
            training.run()
    return clock.row(batch) | {"tflop_pair": _pair_tflop(spec.recipe, placement, run.base, tiny=tiny)}


def _spec(run: Run, batch: int, *, tiny: bool) -> Any:
    from alignment.contracts.training import Recipe, TrainSpec

    family = family_of(run.base)
    tuning = {"kind": "lora", "rank": run.rank, "alpha": run.rank} if run.rank else {"kind": "full"}
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "backbone": {"name": family, "resolution": resolution_of(run.base, tiny=tiny)},
            "objective": {"name": "diffusion_dpo", "beta": 5000.0 if family in ("stable_diffusion", "sdxl") else 100.0},
            "tuning": tuning,
            "optimiser": {"learning_rate": 1e-9},
            "global_batch": batch,
            "steps": 10_000,
            "seed": 0,
            "precision": "bf16",
            "divergence": {"spike_factor": 1e12},
            **run.recipe,
        }
    )
    return TrainSpec(recipe=recipe, base_digest=digest(f"base {run.base}"), cache_digest=digest(f"cache {run.base}"))


def _pair_tflop(recipe: Any, placement: Any, base: str, *, tiny: bool) -> float:
    from pipelines.dispatch.sizing.architecture import units_of
    from pipelines.dispatch.sizing.cards import pair_flops
    from pipelines.dispatch.sizing.memory import case_of

    units = units_of(family_of(base), config_of(base, tiny=tiny), resolution_of(base, tiny=tiny) // 8)
    return pair_flops(case_of(recipe, placement), units) / 1e12


class _Steps:
    """Times of the steps, peak of the memory, and the GPU's idle share in two profiled steps."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.times: list[float] = []
        self.figures: Row = {}
        self._profile: Any = None

    def begin(self, step: int) -> None:
        """Note the beginning of a step, numbered from 0."""
        import torch

        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
        if step == WARM and cuda:
            torch.cuda.reset_peak_memory_stats()
        if WARM <= step <= WARM + TIMED:
            self.times.append(time.perf_counter())
        if step == WARM + TIMED and cuda:
            self.figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            self.figures["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profile.__enter__()
            self._started = time.perf_counter()
        if step == WARM + TIMED + (PROFILED if cuda else 0):
            if cuda:
                self._end_profile()
            raise _EnoughError

    def _end_profile(self) -> None:
        wall = time.perf_counter() - self._started
        self._profile.__exit__(None, None, None)
        events = self._profile.profiler.kineto_results.events()
        spans = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if not e.is_user_annotation()]
        self.figures["idle_share"] = max(0.0, 1 - covered(spans) / 1e9 / wall)

    def row(self, batch: int) -> Row:
        """Return the figures."""
        gaps = [after - before for before, after in itertools.pairwise(self.times)]
        pace = {"pairs_s": batch / statistics.median(gaps), "step_ms": 1000 * statistics.median(gaps)}
        return pace | self.figures


def covered(spans: list[tuple[int, int]]) -> int:
    """Return the length of the union of spans."""
    total, reach = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reach))
        reach = max(reach, end)
    return total


def matrix_rate() -> Row:
    """Measure the card's rate of bfloat16 products, of which MFU is a share."""
    import torch

    if not torch.cuda.is_available():
        return {"name": "matrix rate", "tflops": None, "base_device": "cpu"}
    size, count = 8192, 20
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        left @ right
    torch.cuda.synchronize()
    rate = 2 * size**3 * count / (time.perf_counter() - started) / 1e12
    return {"name": "matrix rate", "tflops": rate, "base_device": torch.cuda.get_device_name()}
