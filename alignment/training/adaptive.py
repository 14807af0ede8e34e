"""Adaptive placement: find the fastest micro-batch that fits, keep the choice, halve it after running out of memory.

The micro-batch divides the global batch and never changes what a step computes, up to the order of sums. So the choice
may differ between hosts; within one run it stays, and a resumed run repeats its curve.
"""

import gc
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alignment.contracts.jobs import PLACEMENT_CHOICE_FILE, JobStoppedError, PlacementChoice, PlacementTrial
from alignment.files.durable import write_json
from alignment.training.memory_meter import Meter, Reading
from alignment.training.update import Adjustable

logger = logging.getLogger(__name__)

PROBE_SECONDS = 20.0
"""Time in one branch after which the probe tries no larger micro-batch."""
_PASSES = 2
"""Measured passes of a size; the fastest counts, since the first also prepares kernels and memory."""
_WORTH = 1.03
"""Factor by which a larger micro-batch has to be faster to be chosen."""

Agree = Callable[[Sequence[float]], list[float]]
"""Replace each number by the largest of all processes."""


@dataclass(frozen=True)
class Branch:
    """A way to compute the same step, such as a policy of gradient checkpointing."""

    settings: Mapping[str, str]
    """Its settings, by their names in the placement."""
    apply: Callable[[], None]
    """Set it for the next passes, in place."""


PLAIN = Branch({}, lambda: None)
"""The placement as written."""


@dataclass(frozen=True)
class Probe:
    """Tries branches and micro-batches of an update. All processes try the same, since each decision is agreed on."""

    update: Adjustable
    meter: Meter
    clear: Callable[[], None]
    """Discards the gradients of a pass."""
    agree: Agree
    reserved_bytes: float = 0.0
    """Memory that later steps hold in addition, such as the optimiser's states."""
    branches: Sequence[Branch] = (PLAIN,)
    """Those that need more memory first."""

    def choose(self) -> PlacementChoice:
        """Measure 1, 2, 4, ... pairs up to the share of a process in each branch; return the fastest that fits.

        A larger one has to be faster by 3 %. Raises torch.OutOfMemoryError when one pair does not fit.
        """
        available = -self.agree([-(self.meter.available() - self.reserved_bytes)])[0]
        trials = [trial for branch in self.branches for trial in self._sizes_of(branch, available)]
        best = _fastest(trials)
        if best is None:
            raise torch.OutOfMemoryError(
                f"A pass of one pair needs {trials[-1].peak_gib:.2f} GiB and {available / 2**30:.2f} GiB are available."
            )
        choice = PlacementChoice(
            micro_batch=best.micro_batch,
            settings=best.settings,
            available_gib=_finite_gib(available),
            trials=tuple(trials),
        )
        self.use(choice)
        return choice

    def use(self, choice: PlacementChoice) -> None:
        """Set branch and micro-batch of a choice; a branch that is not here leaves the placement as written."""
        for branch in self.branches:
            if dict(branch.settings) == dict(choice.settings):
                branch.apply()
        self.update.set_micro_batch(choice.micro_batch)

    def _sizes_of(self, branch: Branch, available: float) -> list[PlacementTrial]:
        """Measure the sizes of a branch until one does not fit or time is up."""
        branch.apply()
        trials: list[PlacementTrial] = []
        spent = 0.0
        for size in _sizes(self.update.largest_micro_batch()):
            if spent > PROBE_SECONDS or _predicted(trials, size) * 2**30 > available:
                break
            trial, seconds = self._try(size, available)
            trials.append(trial.model_copy(update={"settings": dict(branch.settings)}))
            spent += seconds
            if not trial.fits:
                break
        return trials

    def _try(self, size: int, available: float) -> tuple[PlacementTrial, float]:
        """Measure a size on every process; return it with the seconds of all passes."""
        readings, pairs = [], size
        for _ in range(_PASSES):
            reading, pairs = self._one_pass(size)
            seconds, peak = self.agree([reading.seconds, reading.peak_bytes])
            readings.append(Reading(seconds, peak))
            if not math.isfinite(peak):
                break
        peak = max(reading.peak_bytes for reading in readings)
        fastest = min(reading.seconds for reading in readings)
        failed = not math.isfinite(peak)
        trial = PlacementTrial(
            micro_batch=size,
            pairs_per_second=0.0 if failed else pairs / fastest,
            peak_gib=_finite_gib(available if failed else peak),
            fits=peak <= available,
        )
        return trial, sum(reading.seconds for reading in readings)

    def _one_pass(self, size: int) -> tuple[Reading, int]:
        """Run a pass of this process; an infinite peak stands for running out of memory."""
        pairs = 0

        def work() -> None:
            nonlocal pairs
            pairs = self.update.try_pass(size)

        try:
            return self.meter.measure(work), pairs
        except torch.OutOfMemoryError:
            return Reading(0.0, math.inf), size
        finally:
            self.clear()


def _sizes(most: int) -> list[int]:
    """Return 1, 2, 4, ... and last `most`."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def _predicted(trials: Sequence[PlacementTrial], size: int) -> float:
    """Return the peak of a size in GiB, by the line through the last two trials; 0 before there are two."""
    if len(trials) < 2:
        return 0.0
    before, last = trials[-2:]
    slope = (last.peak_gib - before.peak_gib) / (last.micro_batch - before.micro_batch)
    return last.peak_gib + slope * (size - last.micro_batch)


def _fastest(trials: Sequence[PlacementTrial]) -> PlacementTrial | None:
    best: PlacementTrial | None = None
    for trial in trials:
        if trial.fits and (best is None or trial.pairs_per_second > _WORTH * best.pairs_per_second):
            best = trial
    return best


def _finite_gib(size: float) -> float:
    """Return bytes as GiB; JSON has no infinity, so no limit is 0."""
    return size / 2**30 if math.isfinite(size) else 0.0


# --- the choice of a run ----------------------------------------------------------------------------------------------


def chosen_placement(probe: Probe, out: Path, *, keep: bool) -> PlacementChoice:
    """Return the choice of an earlier attempt, or measure one and, with `keep`, write it; set it in either case."""
    choice = read_choice(out)
    if choice is None:
        choice = probe.choose()
        if keep:
            keep_choice(out, choice)
    probe.use(choice)
    logger.info("adaptive placement: micro_batch %d of %s", choice.micro_batch, choice.model_dump_json())
    return choice


def read_choice(out: Path) -> PlacementChoice | None:
    """Return the choice of an earlier attempt; None before there is one."""
    path = out / PLACEMENT_CHOICE_FILE
    return PlacementChoice.model_validate_json(path.read_bytes()) if path.is_file() else None


def keep_choice(out: Path, choice: PlacementChoice) -> None:
    """Write the choice of a run."""
    write_json(out / PLACEMENT_CHOICE_FILE, choice.model_dump(mode="json"))


def train_adaptively(run: Callable[[], None], out: Path, *, alone: bool) -> None:
    """Run a training to its end; out of memory, continue from its checkpoint with a choice that needs less.

    `run` builds and runs the training, so that nothing of a failed one stays in memory. With several processes (not
    `alone`) the others wait for the one that failed: the job stops instead, and its next attempt continues.
    """
    while True:
        try:
            return run()
        except torch.OutOfMemoryError as error:
            choice, cause = read_choice(out), str(error)
            smaller = None if choice is None else stepped_down(choice)
            if choice is None or smaller is None:
                raise
        keep_choice(out, smaller)
        message = f"Out of memory with {_described(choice)}; continuing with {_described(smaller)}."
        logger.warning("%s %s", message, cause)
        if not alone:
            raise JobStoppedError("preempted", f"{message} Run the job again to continue from its checkpoint.")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def stepped_down(choice: PlacementChoice) -> PlacementChoice | None:
    """Return the next choice that needs less memory, None if there is none: half the micro-batch, at one pair the next
    branch of the trials.
    """
    count = {"steps_down": choice.steps_down + 1}
    if choice.micro_batch > 1:
        return choice.model_copy(update=count | {"micro_batch": choice.micro_batch // 2})
    tried = list(dict.fromkeys(tuple(trial.settings.items()) for trial in choice.trials))
    own = tuple(choice.settings.items())
    lighter = tried[tried.index(own) + 1 :] if own in tried else []
    return choice.model_copy(update=count | {"settings": dict(lighter[0])}) if lighter else None


def _described(choice: PlacementChoice) -> str:
    settings = {"micro_batch": choice.micro_batch, **choice.settings}
    return ", ".join(f"{name} {value}" for name, value in settings.items())


# --- the deadline -----------------------------------------------------------------------------------------------------


def check_deadline(
    choice: PlacementChoice, hours: float | None, *, num_pairs: int, num_processes: int, may_stop: bool
) -> None:
    """Stop a run whose `num_pairs` take longer than `hours` at the measured pace of the choice.

    The pace is that of the passes alone, so it is the least time. Where work is done already (not `may_stop`, or a run
    that has stepped down), or where processes may come back, the run goes on with a warning. Raises JobStoppedError.
    """
    own = (choice.micro_batch, dict(choice.settings))
    paces = [trial.pairs_per_second for trial in choice.trials if (trial.micro_batch, dict(trial.settings)) == own]
    if hours is None or not paces:
        return
    pace = max(paces) * num_processes
    needed = num_pairs / pace / 3600
    if needed <= hours:
        return
    message = (
        f"Training needs at least {needed:.3g} hours, and placement.train.deadline_hours = {hours:g}:"
        f" {num_pairs:,} pairs at {pace:.3g} pairs/s, measured with {_described(choice)}, the fastest that fits."
        " Raise deadline_hours, use more or faster GPUs, or lower steps or global_batch in the recipe."
    )
    if may_stop and choice.steps_down == 0:
        raise JobStoppedError("bad_input", message)
    logger.warning("%s Training continues.", message)
