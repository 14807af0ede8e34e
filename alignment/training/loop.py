"""The training loop: one curve for any number of processes, any micro-batch, interrupted or not.

With float32 forward passes, that is, up to the order of sums. In bf16 another division of the batch rounds otherwise:
the loss then differs by some percent, while pairs, order and noise stay the same.

The loop owns weights, optimiser, checkpoints and the files that a run writes. An `Update` computes the gradients of a
step, which are the mean over the global batch however it is split. Steps are counted from 1 in everything written.
"""

import logging
import shutil
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from alignment.backbones.interface import Backbone
from alignment.contracts.jobs import CHECKPOINTS_DIR, METRICS_FILE, WEIGHTS_DIR, JobStoppedError, Placement
from alignment.contracts.training import TrainSpec
from alignment.files.durable import publish_folder
from alignment.files.progress import JobProgress
from alignment.training.adaptive import PLAIN, Probe, check_deadline, chosen_placement
from alignment.training.background_saves import BackgroundSaves
from alignment.training.checkpoint import (
    CheckpointFolder,
    TrainingState,
    gather,
    read_state,
    restore,
    tensor_files,
    trainable,
)
from alignment.training.divergence import ChosenWatch, DivergenceWatch, check_weights
from alignment.training.gradient_checkpointing import (
    CheckpointedBlocks,
    all_agree,
    fastest_that_fits,
    largest_of_all,
    memory_of,
    moments_to_come,
    starting_policy,
)
from alignment.training.health.run_health import RunHealth
from alignment.training.memory_meter import Meter, meter_of
from alignment.training.metrics import append_metrics, cut_back
from alignment.training.optimisation import build_optimiser, learning_rate, set_learning_rate
from alignment.training.pace import PaceMeter, keep_pace
from alignment.training.peak_memory import peak_memory
from alignment.training.policy import gather_into, load_policy
from alignment.training.precision import LossScale, set_float32_products
from alignment.training.prediction_norm import spare_norm_metrics
from alignment.training.samples import SampleGrid
from alignment.training.seeding import stream_seed
from alignment.training.sharding import copies_settings, shard, whole
from alignment.training.stopping import StopSignal, stop_message
from alignment.training.update import Adjustable, MakeUpdate, Workbench

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInputs:
    """Inputs of a run, read and checked by the job."""

    spec: TrainSpec
    placement: Placement
    backbone: Backbone
    make_update: MakeUpdate
    """Builds the source of the run's gradients: a feature cache, or images that the policy draws itself."""
    out: Path
    meter: Meter | None = None
    """Measures memory for an adaptive placement; None for the device's own."""


class TrainingRun:
    """One process's part of a run. `run()` goes from the newest good checkpoint to the weights folder."""

    def __init__(self, inputs: RunInputs) -> None:
        self.spec, self.placement, self.out = inputs.spec, inputs.placement, inputs.out
        self.recipe = inputs.spec.recipe
        self.backbone = inputs.backbone
        self.accelerator = Accelerator(
            mixed_precision="no", cpu=not torch.cuda.is_available(), kwargs_handlers=[copies_settings(self.recipe)]
        )
        self.device = self.accelerator.device
        self.health = RunHealth(self.device)
        set_float32_products(self.recipe.precision)
        self.scale = LossScale(self.recipe.precision)
        several = self.accelerator.num_processes > 1
        self.sharded = self.placement.sharding == "fsdp2" and several
        self.copies = several and not self.sharded
        self._load_policy = partial(load_policy, self.backbone, self.recipe, self.placement, runs_on=self.device)
        self.denoiser = self._load_policy(device=torch.device("cpu") if self.sharded else None)
        self.memory = memory_of(self.device)
        self.blocks = CheckpointedBlocks(self.denoiser, self.placement.checkpointed_every)
        self.blocks.apply(starting_policy(self.placement.gradient_checkpointing, self.memory))
        if self.sharded:
            shard(self.denoiser, self.device, self.accelerator.num_processes)
        self.weights: list[nn.Parameter] = [weight for _, weight in trainable(self.denoiser)]
        self.optimiser = build_optimiser(self.weights, self.recipe.optimiser, fused=self.placement.fused_optimiser)
        self.checkpoints = CheckpointFolder(self.out / CHECKPOINTS_DIR, self.placement.keep_checkpoints)
        self.saves = BackgroundSaves(self.checkpoints)
        self.watch = DivergenceWatch(self.recipe.divergence)
        self.chosen = ChosenWatch()
        self.grid = SampleGrid(
            self.out,
            self.placement.sample_prompts,
            backbone=self.backbone,
            denoiser=self.denoiser,
            device=self.device,
            is_main=self.accelerator.is_main_process,
        )
        self.done = self._resume()
        self.saved = self.done
        self.bench = Workbench(
            self.recipe,
            self.placement,
            self.backbone,
            self.accelerator,
            denoiser=self.denoiser,
            wrapped=self.denoiser if self.sharded else self.accelerator.prepare(self.denoiser),
            sharded=self.sharded,
            health=self.health,
            scale=self.scale,
        )
        self.update = inputs.make_update(self.bench)
        self.meter = inputs.meter
        self.pace = PaceMeter(self.accelerator)
        self.micro_batch: int | None = None

    # --- before and after the steps ---

    def _resume(self) -> int:
        """Restore the newest good checkpoint; return the number of steps done. Rank 0 chooses (the others send -1)."""
        chosen = torch.full((1,), -1, device=self.device)
        if self.accelerator.is_main_process and (path := self.checkpoints.newest()):
            chosen[0] = read_state(path).step
        step: int = int(self.accelerator.reduce(chosen, "sum")) + self.accelerator.num_processes - 1
        if step >= 0:
            self._restore(self.checkpoints.folder / f"step_{step:06d}")
        if self.accelerator.is_main_process:
            self.checkpoints.drop_beyond(step)
            cut_back(self.out / METRICS_FILE, step)
            self.grid.cut_back(step)
        self.accelerator.wait_for_everyone()
        return max(0, step)

    def _restore(self, path: Path) -> None:
        state = read_state(path)
        if state.spec_digest != self.spec.digest:
            raise ValueError(f"{path} belongs to another train spec; give an empty output folder.")
        restore(path, self.denoiser, self.optimiser)
        self.watch = DivergenceWatch(self.recipe.divergence, state.guard_losses, state.guard_spikes)
        self.chosen.steps = state.chosen_worse_steps
        self.scale = LossScale(self.recipe.precision, state.loss_scale, state.loss_scale_steps)
        logger.info("resumed from %s", path)

    def _adapt(self) -> int | None:
        """Return the micro-batch that an adaptive placement chose, now or in an earlier attempt; else None.

        It follows a synchronised pass: DDP must see the first one of a static graph.
        """
        if not self.placement.auto:
            return None
        assert isinstance(self.update, Adjustable)
        tries_blocks = self.placement.gradient_checkpointing == "auto" and self.memory is not None and not self.sharded
        probe = Probe(
            self.update,
            self.meter or meter_of(self.device),
            clear=self._drop_gradients,
            agree=partial(largest_of_all, self.accelerator),
            reserved_bytes=moments_to_come(self.weights, self.recipe.optimiser.kind, self.optimiser),
            branches=self.blocks.branches() if tries_blocks else (PLAIN,),
        )
        choice = chosen_placement(probe, self.out, keep=self.accelerator.is_main_process)
        if self.memory is not None:
            self.memory.reset()  # what larger trials took would stay reserved, and count as the run's peak
        self.accelerator.wait_for_everyone()
        left, processes = (self.recipe.steps - self.done) * self.recipe.global_batch, self.accelerator.num_processes
        fresh = self.done == 0 and processes == self.placement.num_processes
        check_deadline(choice, self.placement.deadline_hours, num_pairs=left, num_processes=processes, may_stop=fresh)
        return choice.micro_batch

    def run(self) -> None:
        """Train to the last step and write the weights. Raises JobStoppedError when the run diverges or is stopped."""
        main = self.accelerator.is_main_process
        with (
            StopSignal() as stop,
            JobProgress(self.out, total=self.recipe.steps, unit="steps", done=self.done, enabled=main) as progress,
            closing(self.update),
            self.saves,
        ):
            self._prime()
            self.micro_batch = self._adapt()
            self._choose_blocks()
            if self.done == 0:
                self._draw()
            self.health.start(self.done)
            while self.done < self.recipe.steps:
                metrics, stop_requested = self._step(stop)
                measured = self._measure()
                if self.done == self.recipe.steps:
                    measured |= self._norms()
                self._record(metrics | measured, always=bool(measured))
                progress.update(self.done, f"loss {metrics['loss']:.4f} {self._shown(metrics)}")
                if stop_requested and self.done < self.recipe.steps:
                    self._preempt()
        self._keep_pace()
        self._write_weights()
        self.accelerator.wait_for_everyone()

    def _prime(self) -> None:
        """Run one backward pass and discard its gradient.

        DDP lays out its buckets again after the first one. With three or more processes the layout decides the order
        of summation, so a resumed run would otherwise differ in its first step.
        """
        if self.copies:
            if isinstance(self.update, Adjustable) and self.placement.auto:
                self.update.set_micro_batch(1)  # the size of the placement may not fit
            self.update.prime(self.done)
            self._drop_gradients()

    def _choose_blocks(self) -> None:
        """Find the policy of gradient checkpointing that `auto` stands for on a GPU.

        A pass over shards is joint, and one process that runs out of memory would leave the others waiting; the passes
        of an online step differ in size. Both keep the policy with the least memory.
        """
        asked, memory = self.placement.gradient_checkpointing, self.memory
        if asked != "auto" or memory is None or self.sharded or self.placement.auto or self.recipe.objective.online:
            return
        fastest_that_fits(
            self.blocks,
            self._try_pass,
            partial(all_agree, self.accelerator),
            memory=memory,
            reserve_bytes=moments_to_come(self.weights, self.recipe.optimiser.kind, self.optimiser),
        )

    def _try_pass(self) -> None:
        """Run one backward pass that sends nothing, and discard its gradient."""
        try:
            with self.accelerator.no_sync(self.bench.wrapped):
                self.update.prime(self.done)
        finally:
            self._drop_gradients()

    def _drop_gradients(self) -> None:
        """Set gradients to zero where they are parts of DDP's buckets, which stay allocated; else free them."""
        self.optimiser.zero_grad(set_to_none=not self.copies)

    def _keep_pace(self) -> None:
        """Write the pace of an offline training; that of an online one depends on reward and sampler."""
        if self.recipe.objective.online:
            return
        size, every = self.micro_batch or self.placement.micro_batch, self.blocks.checkpointed_every
        measured = self.pace.measured(self.recipe.global_batch, size, checkpointed_every=every)
        if self.accelerator.is_main_process:
            keep_pace(self.out, measured)

    def _write_weights(self) -> None:
        main, policy = self.accelerator.is_main_process, self.denoiser
        if self.sharded:  # whole, in host memory; only the main process's gets the trained values
            policy = gather_into(self._load_policy(device=torch.device("cpu")) if main else policy, policy, keep=main)
        if not main:
            return
        check_weights(trainable(policy), self.done)
        draft = self.out / f".{WEIGHTS_DIR}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        self.backbone.save_weights(policy, self.recipe.tuning, draft)
        publish_folder(draft, self.out / WEIGHTS_DIR)

    # --- one step ---

    def _step(self, stop: StopSignal) -> tuple[dict[str, float], bool]:
        """Run one optimiser step; return its global metrics, and True when any process received a stop signal."""
        self.pace.start()
        self.saves.check()
        torch.manual_seed(stream_seed("step", self.recipe.seed, self.done, self.accelerator.process_index))
        sums = self._gradients()
        with self.health.clock.phase("optimiser"):
            stop_flag = torch.full((), float(stop.requested), dtype=torch.float64, device=self.device)
            total = self._total([*(sums[name] for name in sorted(sums)), stop_flag])
            norm_1 = whole(torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.max_grad_norm)).reshape(1)
        # The only point of a step at which the host waits for the device: the update must not follow a loss that is
        # not finite.
        *totals, stopped, norm = torch.cat([total, norm_1.to(total)]).tolist()
        metrics = {name: value / self.recipe.global_batch for name, value in zip(sorted(sums), totals, strict=True)}
        self.watch.observe(self.done + 1, metrics["loss"], norm)
        rate = learning_rate(self.done, self.recipe.optimiser, self.recipe.steps)
        with self.health.clock.phase("optimiser"):
            set_learning_rate(self.optimiser, rate)
            self.optimiser.step()
            self._drop_gradients()
        self.done += 1
        metrics |= {"gradient_norm": norm, "learning_rate": rate} | self.chosen.observe(metrics)
        metrics[f"{self.update.unit}_per_second"] = self.recipe.global_batch / self.pace.stop()
        metrics |= peak_memory(self.device)
        if self.micro_batch is not None:
            metrics["micro_batch"] = self.micro_batch
        return metrics, stopped > 0

    def _gradients(self) -> dict[str, Tensor]:
        """Compute the gradients of the next step, in fp16 again with a smaller loss scale while one overflows."""
        sums = self.update(self.done)
        while not self.scale.settle(self.weights):
            self._drop_gradients()
            sums = self.update(self.done)
        return sums

    def _measure(self) -> dict[str, float]:
        """Measure the updated weights if the update does so after this step; the same on every process."""
        parts = self.update.measure(self.done)
        if not parts:
            return {}
        names = sorted(parts)
        return dict(zip(names, self._total([parts[name] for name in names]).tolist(), strict=True))

    def _total(self, parts: list[Tensor]) -> Tensor:
        """Add up each number over the processes."""
        total: Any = self.accelerator.reduce(torch.stack(parts), "sum")
        return cast(Tensor, total)

    def _shown(self, metrics: dict[str, float]) -> str:
        name = self.update.shown
        return f"{name.removeprefix('implicit_')} {metrics[name]:.2f}"

    def _norms(self) -> dict[str, float]:
        """Compare policy and base after the last step, on the main process; sharded weights on every process."""
        if not (self.accelerator.is_main_process or self.sharded):
            return {}
        return spare_norm_metrics(self.update.norms, jointly=self.sharded)

    def _record(self, metrics: dict[str, float], *, always: bool = False) -> None:
        """Write metrics and images, then begin the checkpoint: one that exists implies that all before it is on disk.

        `always`: write the metrics whatever the interval, because they hold some that few steps have.
        """
        placement, last = self.placement, self.done == self.recipe.steps
        due = not last and self._is_due()
        if due:
            self.saved = self.done
        logged = always or last or self.done % placement.log_every_steps == 0
        if self.accelerator.is_main_process and logged:
            append_metrics(self.out, self.done, metrics | self.health.read(self.done))
        if last or self.done % placement.sample_every_steps == 0:
            self._draw()
        if due:
            with self.health.clock.phase("checkpoint"):
                self._checkpoint()

    def _is_due(self) -> bool:
        """Return True when a checkpoint should be written after this step.

        An update that cannot pause after the next step gets one now, whatever the placement's interval: a preemption
        then costs at most the steps until it can pause again.
        """
        every = self.placement.checkpoint_every_steps
        elapsed = self.done // every > self.saved // every
        return self.update.may_pause(self.done) and (elapsed or not self.update.may_pause(self.done + 1))

    def _draw(self) -> None:
        if self.accelerator.is_main_process or self.sharded:
            self.grid.draw(self.done, jointly=self.sharded)

    def _checkpoint(self) -> None:
        files = tensor_files(self.denoiser, self.optimiser)
        if not self.accelerator.is_main_process:
            if self.sharded:
                gather(files)
            return
        state = TrainingState(
            spec_digest=self.spec.digest,
            step=self.done,
            next_position=self.done * self.recipe.global_batch,
            learning_rate=float(self.optimiser.param_groups[0]["lr"]),
            guard_losses=tuple(self.watch.losses),
            guard_spikes=self.watch.spikes,
            chosen_worse_steps=self.chosen.steps,
            loss_scale=self.scale.value,
            loss_scale_steps=self.scale.clean,
            sample_keys=self.grid.keys(),
        )
        self.saves.save(state, files)

    def _preempt(self) -> None:
        """Save a checkpoint if the run can resume from this step, wait until it is on disk, and stop."""
        if self.update.may_pause(self.done):
            self.saved = self.done
            self._checkpoint()
        self.saves.wait()
        self.accelerator.wait_for_everyone()
        raise JobStoppedError("preempted", stop_message(self.done, self.saved), step=self.saved)
