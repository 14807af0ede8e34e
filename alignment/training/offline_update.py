"""An optimiser step on a feature cache: this process's share of the global batch, micro-batch by micro-batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignment.catalogues.lookup import resolve
from alignment.data.features import CachedFeatures
from alignment.training.ahead import Ahead
from alignment.training.batches import PairBatch, Visit, assemble, micro_batches, nothing_known, step_visits
from alignment.training.health.model_flops import flops_per_pair
from alignment.training.offline import OfflineStep, takes_reference
from alignment.training.prediction_norm import PredictionNorms, fixed_visits
from alignment.training.reference import never, predictor, reference_predictor
from alignment.training.reference_errors import KnownErrors
from alignment.training.update import Workbench

PAIRS_AHEAD = 4096
"""Pairs beyond the present step that are announced to the process that fetches a streamed cache."""
BATCHES_AHEAD = 2
"""Micro-batches that wait, assembled, for the step that needs them."""


class OfflineUpdate:
    """See `alignment.training.update.Update`. Every micro-batch adds its losses over the size of the global batch.

    A thread assembles the next micro-batches while the device works. What it draws depends on the visit only, so the
    curve is the same as without it. `known`: the reference's errors, computed before by a job; then no reference is
    loaded.
    """

    unit = "pairs"
    shown = "implicit_accuracy"

    def __init__(self, features: CachedFeatures, bench: Workbench, known: KnownErrors | None = None) -> None:
        self.features = features
        self.recipe = bench.recipe
        self._bench = bench
        self._known = known
        self.step = self._offline_step()
        self._ahead: Ahead[tuple[PairBatch, bool]] | None = None
        self._next_step: int | None = None

    def _offline_step(self) -> OfflineStep:
        bench, params = self._bench, self.recipe.objective
        reference = never("the reference")
        if takes_reference(resolve(params.implementation)) and self._known is None:
            reference = reference_predictor(bench)
        policy = predictor(bench.backbone, bench.wrapped, self.recipe, bench.device)
        schedule = bench.backbone.schedule.on(bench.device)
        return OfflineStep(params, schedule, policy=policy, reference=reference, clock=bench.health.clock)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Compute gradients and weighted sums of the monitors."""
        if self.features.streamed:
            self._expect(step)
        return self._accumulate(self._ready(step))

    def prime(self, step: int) -> None:
        """Run one micro-batch of the step, or of the last one."""
        step = min(step, self.recipe.steps - 1)
        if self.features.streamed:
            self._expect(step)
        self.accumulate(self.my_batches(step)[:1])

    def close(self) -> None:
        """Stop the thread that assembles batches."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = self._next_step = None

    def measure(self, done: int) -> dict[str, Tensor]:
        """Return nothing: the monitors of a step show its weights."""
        return {}

    def may_pause(self, step: int) -> bool:
        """Return True: the next pairs follow from the step alone."""
        return True

    def largest_micro_batch(self) -> int:
        """Return the largest share of a process in the global batch."""
        return -(-self.recipe.global_batch // int(self._bench.accelerator.num_processes))

    def set_micro_batch(self, size: int) -> None:
        """Cut the steps from now on into micro-batches of at most this many pairs."""
        self._bench = replace(self._bench, placement=self._bench.placement.model_copy(update={"micro_batch": size}))

    def try_pass(self, size: int) -> int:
        """Run the largest micro-batch of the first step that this size allows."""
        self.set_micro_batch(size)
        visits = max(self.my_batches(0), key=len)
        with self._bench.backward_pass(last=False):
            self.accumulate([visits])
        return len(visits)

    def norms(self) -> list[PredictionNorms]:
        """Compare policy and base on fixed noisy latents of the cache, the same for every recipe and seed.

        The base of an objective without a reference is loaded only here: it has room, as no gradient is kept now.
        """
        bench, schedule = self._bench, self._bench.backbone.schedule
        fixed = self.recipe.model_copy(update={"seed": 0, "caption_dropout": 0.0, "flip_labels": False})
        visits = fixed_visits(self.features.index.num_pairs)
        loaded = self.step.takes_reference and self._known is None
        reference = self.step.reference if loaded else reference_predictor(bench)
        size = min(bench.placement.micro_batch, self.recipe.global_batch)
        parts = micro_batches(visits, self.features.bucket, rank=0, num_processes=1, micro_batch=size)
        found = []
        for number, part in enumerate(parts):
            if self.features.streamed:
                wanted = [visit.pair for later in parts[number:] for visit in later]
                self.features.expect(wanted, now=len(part), announce=bench.accelerator.is_local_main_process)
            batch = assemble(part, self.features, fixed, schedule).to(bench.device)
            found.append(self.step.norms(batch, reference))
        return found

    def my_batches(self, step: int) -> list[Sequence[Visit]]:
        """Return this process's micro-batches of a step; of sharded weights, as many as every other process has."""
        visits, accelerator = self._visits(step), self._bench.accelerator
        if not self._bench.sharded:
            return self._share(visits, accelerator.process_index)
        shares = [self._share(visits, rank) for rank in range(accelerator.num_processes)]
        own, filler = shares[accelerator.process_index], replace(visits[0], weight=0.0)
        return own + [[filler]] * (max(map(len, shares)) - len(own))

    def _share(self, visits: Sequence[Visit], rank: int) -> list[Sequence[Visit]]:
        return micro_batches(
            visits,
            self.features.bucket,
            rank=rank,
            num_processes=self._bench.accelerator.num_processes,
            micro_batch=self._bench.placement.micro_batch,
        )

    def _visits(self, step: int) -> list[Visit]:
        return step_visits(
            step,
            global_batch=self.recipe.global_batch,
            num_pairs=self.features.index.num_pairs,
            seed=self.recipe.seed,
        )

    def _expect(self, step: int) -> None:
        """State the pairs of this step and of the steps after it, at least of those that are assembled already.

        This follows the steps, not the thread: pairs that other processes of this host still need must not be deleted.
        """
        batch = self.recipe.global_batch
        last = min(self.recipe.steps, step + 1 + max(BATCHES_AHEAD + 2, -(-PAIRS_AHEAD // batch)))
        pairs = [visit.pair for later in range(step, last) for visit in self._visits(later)]
        self.features.expect(pairs, now=batch, announce=self._bench.accelerator.is_local_main_process)

    # --- batches ---

    def _ready(self, step: int) -> Iterator[tuple[PairBatch, bool]]:
        """Yield this process's batches of a step on its device, each with True if it is the last."""
        if self._ahead is None or self._next_step != step:
            self.close()
            self._ahead = Ahead(self._assembled(step), BATCHES_AHEAD)
        self._next_step, last = None, False  # a step that is left in the middle begins with new batches
        while not last:
            with self._bench.health.clock.phase("data"):
                batch, last = next(self._ahead)
                batch = batch.to(self._bench.device)
            yield batch, last
        self._next_step = step + 1

    def _assembled(self, first: int) -> Iterator[tuple[PairBatch, bool]]:
        """Yield this process's batches of every step from `first` on, each with True if it is the last of its step."""
        on_gpu = self._bench.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self._bench.device)  # else a new thread pins memory through the first GPU
        for step in range(first, max(first + 1, self.recipe.steps)):
            parts = self.my_batches(step)
            for number, visits in enumerate(parts, start=1):
                batch = self._assemble(visits)
                yield batch.pinned() if on_gpu else batch, number == len(parts)

    def _assemble(self, visits: Sequence[Visit]) -> PairBatch:
        schedule, known = self._bench.backbone.schedule, self._known or nothing_known
        return assemble(visits, self.features, self.recipe, schedule, known=known)

    # --- passes ---

    def accumulate(self, batches: Sequence[Sequence[Visit]]) -> dict[str, Tensor]:
        """Run forward and backward over micro-batches; return weighted sums of the monitors, float64."""
        device, last = self._bench.device, len(batches)
        return self._accumulate(
            (self._assemble(visits).to(device), number == last) for number, visits in enumerate(batches, start=1)
        )

    def _accumulate(self, batches: Iterable[tuple[PairBatch, bool]]) -> dict[str, Tensor]:
        bench, sums = self._bench, dict[str, Tensor]()
        # DDP averages over processes, but the sum over pairs must be divided by the global batch only.
        scale = bench.accelerator.num_processes / self.recipe.global_batch * bench.scale.value
        for batch, last in batches:
            if bench.health.wants_flops and not bench.sharded:
                self._count_flops(batch)
            with bench.backward_pass(last=last):
                output = self.step(batch)
                with bench.health.clock.phase("backward"):
                    # Not accelerator.backward: it would divide by an accumulation count taken from the environment.
                    ((output.loss_B * batch.weight_B).sum() * scale).backward()
            for name, value_B in output.monitors.items():
                sums[name] = sums.get(name, torch.zeros((), device=bench.device)) + (
                    (value_B * batch.weight_B).sum(dtype=torch.float64)
                )
        return sums

    def _count_flops(self, batch: PairBatch) -> None:
        bench = self._bench
        passes = int(self.step.takes_reference and self._known is None)
        pair = flops_per_pair(bench.backbone, bench.denoiser, self.recipe, batch, passes=passes)
        bench.health.flops_per_step = pair * self.recipe.global_batch / bench.accelerator.num_processes
