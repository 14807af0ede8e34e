"""An optimiser step on a feature cache: this process's share of the global batch, micro-batch by micro-batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignment.catalogues.lookup import resolve
from alignment.data.features import CachedFeatures
from alignment.training.batches import Visit, assemble, micro_batches, step_visits
from alignment.training.offline import OfflineStep, takes_reference
from alignment.training.prediction_norm import PredictionNorms, fixed_visits
from alignment.training.reference import never, predictor, reference_predictor
from alignment.training.update import Workbench

PAIRS_AHEAD = 4096
"""Pairs beyond the present step that are announced to the process that fetches a streamed cache."""


class OfflineUpdate:
    """See `alignment.training.update.Update`. Every micro-batch adds its losses over the size of the global batch."""

    unit = "pairs"
    shown = "implicit_accuracy"

    def __init__(self, features: CachedFeatures, bench: Workbench) -> None:
        self.features = features
        self.recipe = bench.recipe
        self._bench = bench
        self.step = self._offline_step()

    def _offline_step(self) -> OfflineStep:
        bench, params = self._bench, self.recipe.objective
        reference = never("the reference")
        if takes_reference(resolve(params.implementation)):
            reference = reference_predictor(bench)
        policy = predictor(bench.backbone, bench.wrapped, self.recipe, bench.device)
        return OfflineStep(params, bench.backbone.schedule, policy=policy, reference=reference)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Compute gradients and weighted sums of the monitors."""
        return self.accumulate(self.my_batches(step))

    def prime(self, step: int) -> None:
        """Run one micro-batch of the step."""
        self.accumulate(self.my_batches(step)[:1])

    def measure(self, done: int) -> dict[str, Tensor]:
        """Return nothing: the monitors of a step show its weights."""
        return {}

    def may_pause(self, step: int) -> bool:
        """Return True: the next pairs follow from the step alone."""
        return True

    def norms(self) -> list[PredictionNorms]:
        """Compare policy and base on fixed noisy latents of the cache, the same for every recipe and seed.

        The base of an objective without a reference is loaded only here: it has room, as no gradient is kept now.
        """
        bench, schedule = self._bench, self._bench.backbone.schedule
        fixed = self.recipe.model_copy(update={"seed": 0, "caption_dropout": 0.0, "flip_labels": False})
        visits = fixed_visits(self.features.index.num_pairs)
        reference = self.step.reference if self.step.takes_reference else reference_predictor(bench)
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
        if self.features.streamed:
            self._expect(step)
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
        """State the pairs of this step and of the steps after it."""
        batch = self.recipe.global_batch
        last = min(self.recipe.steps, step + 1 + -(-PAIRS_AHEAD // batch))
        pairs = [visit.pair for later in range(step, last) for visit in self._visits(later)]
        self.features.expect(pairs, now=batch, announce=self._bench.accelerator.is_local_main_process)

    def accumulate(self, batches: Sequence[Sequence[Visit]]) -> dict[str, Tensor]:
        """Run forward and backward over micro-batches; return weighted sums of the monitors, float64."""
        accelerator, device = self._bench.accelerator, self._bench.device
        sums: dict[str, Tensor] = {}
        # DDP averages over processes, but the sum over pairs must be divided by the global batch only.
        scale = accelerator.num_processes / self.recipe.global_batch * self._bench.scale.value
        for number, visits in enumerate(batches):
            batch = assemble(visits, self.features, self.recipe, self._bench.backbone.schedule).to(device)
            last = number == len(batches) - 1
            with self._bench.backward_pass(last=last):
                output = self.step(batch)
                # Not accelerator.backward: it would divide by an accumulation count taken from the environment.
                ((output.loss_B * batch.weight_B).sum() * scale).backward()
            for name, value_B in output.monitors.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + (
                    (value_B * batch.weight_B).sum(dtype=torch.float64)
                )
        return sums
