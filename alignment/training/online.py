"""The online step: the policy draws images, a reward scores them, and the weights that drew them are updated.

B counts images of one prompt, T denoising steps with a density. An optimiser step is numbered from 0; an epoch is
`updates_per_epoch` passes over its images, `num_minibatches` optimiser steps each.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.backbones.drawing import to_images
from alignment.backbones.interface import Conditioning, Framing
from alignment.catalogues.lookup import resolve
from alignment.catalogues.objectives import PRDP
from alignment.contracts.jobs import REWARD_GAIN, JobStoppedError
from alignment.data.prompt_lines import PromptLines
from alignment.objectives.prdp import PRDPOutput, ScoredTrajectories
from alignment.rewards.interface import Scorer
from alignment.training.offline import Predict
from alignment.training.prediction_norm import PredictionNorms, prediction_norms
from alignment.training.reference import predictor, reference_predictor
from alignment.training.reward_gain import RewardGain, is_measured
from alignment.training.seeding import epoch_order
from alignment.training.trajectories import AncestralSampler, Trajectories, trajectory_noise
from alignment.training.update import Workbench

logger = logging.getLogger(__name__)

NORM_PROMPTS = 2
NORM_IMAGES = 4
"""Prompts, and images of each, on whose trajectories the sizes of predictions are compared."""


@dataclass(frozen=True)
class _Slot:
    """A position in an epoch and its prompt. `weight` is 0 for a filler of a process without a share."""

    number: int
    prompt: str
    weight: float = 1.0


@dataclass(frozen=True)
class _ScoredPrompt:
    """One prompt's images, drawn and scored."""

    slot: _Slot
    trajectories: Trajectories
    rewards_B: Tensor


@dataclass(frozen=True)
class _Piece:
    """One forward and backward pass: some images of a prompt at one denoising step."""

    trajectories: Trajectories
    images: slice
    step: int
    coefficients_B: Tensor
    """d loss / d log-probability of each image, times the scale for the global batch."""


class OnlineUpdate:
    """See `alignment.training.update.Update`. Checkpoints are possible between epochs only.

    Images are drawn when an epoch begins and stay in host memory until the next. A run that was stopped in the middle
    of an epoch resumes at the epoch's beginning and draws the same images again.
    """

    unit = "prompts"
    shown = "reward"

    def __init__(self, prompts: PromptLines, scorer: Scorer, reward: str, bench: Workbench) -> None:
        """`reward` is the scorer's name, for messages."""
        params = bench.recipe.objective
        assert isinstance(params, PRDP)
        self.params = params
        self._bench = bench
        self._prompts = prompts
        self._scorer = scorer
        self._reward = reward
        self._objective: Callable[..., PRDPOutput] = resolve(params.implementation)
        self._sampler = AncestralSampler(
            bench.backbone.schedule,
            params,
            empty=self._conditioning([""]),
            most_images=bench.placement.micro_batch,
            device=bench.device,
        )
        # The unwrapped denoiser draws and evaluates; only passes with a gradient use its distributed wrapper.
        self._silent = predictor(bench.backbone, bench.denoiser, bench.recipe, bench.device)
        self._policy = predictor(bench.backbone, bench.wrapped, bench.recipe, bench.device)
        self._reference = reference_predictor(bench)
        self._minibatches: list[list[_ScoredPrompt]] = []
        self._gain = RewardGain(
            prompts,
            self._fresh_rewards,
            seed=bench.recipe.seed,
            noise_shape=(params.sampler_steps, *bench.backbone.latent_shape),
            most_images=bench.placement.micro_batch,
            process=(bench.accelerator.process_index, bench.accelerator.num_processes),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimiser steps between two drawings."""
        return self.params.updates_per_epoch * self.params.num_minibatches

    def may_pause(self, step: int) -> bool:
        """Return True only where an epoch begins: within one, the images come from weights that no longer exist."""
        return step % self.steps_per_epoch == 0

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Compute gradients and weighted sums of the monitors; the first step of an epoch draws its images."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if number == 0:
            self._minibatches = self._draw_epoch(epoch)
        minibatch = self._minibatches[number % self.params.num_minibatches]
        outputs = [self._judge(scored, moved=number > 0) for scored in minibatch]
        self._backward(list(self._pieces(minibatch, outputs)))
        return self._sums(minibatch, outputs)

    @torch.no_grad()
    def measure(self, done: int) -> dict[str, Tensor]:
        """Return this process's part of the reward's gain over the reference, at about ten points of the run."""
        if not is_measured(done, self._bench.recipe.steps):
            return {}
        with torch.random.fork_rng():
            part = self._gain.part(self._silent, self._reference)
        return {REWARD_GAIN: torch.tensor(part, dtype=torch.float64, device=self._bench.device)}

    def prime(self, step: int) -> None:
        """Run a pass over one latent of zeros."""
        shape, device = self._bench.backbone.latent_shape, self._bench.device
        empty = {name: states.to(device) for name, states in self._conditioning([""]).items()}
        answer_BCHW = self._policy(torch.zeros(1, *shape, device=device), torch.zeros(1, device=device).long(), empty)
        torch.autograd.backward(answer_BCHW.float().sum() * 0)

    def close(self) -> None:
        """Do nothing: no thread works beside the steps."""

    @torch.no_grad()
    def norms(self) -> list[PredictionNorms]:
        """Compare policy and base at every denoising step of the base's trajectories for the first prompts.

        The trajectories use noise of no epoch, the same for every recipe and seed.
        """
        return [part for number in range(min(NORM_PROMPTS, len(self._prompts))) for part in self._norms(number)]

    def _norms(self, number: int) -> Iterator[PredictionNorms]:
        conditioning, params = self._conditioning([self._prompts[number]]), self.params
        noise_BSCHW = trajectory_noise(
            0,
            -1,
            number,
            num_images=NORM_IMAGES,
            num_steps=params.sampler_steps,
            shape=self._bench.backbone.latent_shape,
        )
        trajectories, _ = self._sampler.draw(self._reference, self._reference, noise_BSCHW, conditioning)
        for images in self._sampler.pieces(noise_BSCHW):
            for step in range(trajectories.num_steps):
                reference_BCHW, timesteps_B = self._sampler.prediction(self._reference, trajectories, images, step)
                policy_BCHW, _ = self._sampler.prediction(self._silent, trajectories, images, step)
                yield prediction_norms(policy_BCHW, reference_BCHW, timesteps_B)

    def _conditioning(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of prompts, one row each, for square images without a crop."""
        side = self._bench.recipe.backbone.resolution
        uncropped = Framing(side, side, crop_top=0, crop_left=0, height=side, width=side)
        backbone = self._bench.backbone
        return {**backbone.encode_captions(prompts), **backbone.image_conditioning([uncropped] * len(prompts))}

    # --- an epoch's images ---

    def _draw_epoch(self, epoch: int) -> list[list[_ScoredPrompt]]:
        """Draw and score this process's share of each minibatch."""
        self._minibatches = []  # free the last epoch's images first
        shares = [self._share(slots) for slots in self.epoch_slots(epoch)]
        count = sum(map(len, shares))
        logger.info("epoch %d: drawing %d images for each of %d prompts", epoch, self.params.images_per_prompt, count)
        return [[self._draw(epoch, slot) for slot in share] for share in shares]

    def epoch_slots(self, epoch: int) -> list[list[_Slot]]:
        """Return every minibatch of an epoch: the next prompts of the endless stream of shuffled passes."""
        size, seed = self._bench.recipe.global_batch, self._bench.recipe.seed
        num_slots = size * self.params.num_minibatches
        slots = []
        for number in range(num_slots):
            once, offset = divmod(epoch * num_slots + number, len(self._prompts))
            slots.append(_Slot(number, self._prompts[epoch_order(seed, once, len(self._prompts))[offset]]))
        return [slots[start : start + size] for start in range(0, num_slots, size)]

    def _share(self, slots: Sequence[_Slot]) -> list[_Slot]:
        """Return a contiguous part; a process without one gets a filler, because all processes must synchronise."""
        rank, world = self._bench.accelerator.process_index, self._bench.accelerator.num_processes
        first, last = (len(slots) * position // world for position in (rank, rank + 1))
        return list(slots[first:last]) or [_Slot(slots[0].number, slots[0].prompt, weight=0.0)]

    def _draw(self, epoch: int, slot: _Slot) -> _ScoredPrompt:
        noise_BSCHW = trajectory_noise(
            self._bench.recipe.seed,
            epoch,
            slot.number,
            num_images=self.params.images_per_prompt,
            num_steps=self.params.sampler_steps,
            shape=self._bench.backbone.latent_shape,
        )
        conditioning = self._conditioning([slot.prompt])
        trajectories, latents_BCHW = self._sampler.draw(self._silent, self._reference, noise_BSCHW, conditioning)
        rewards_B = self._score([slot.prompt] * len(latents_BCHW), latents_BCHW, where=f"epoch {epoch}")
        return _ScoredPrompt(slot, trajectories, rewards_B)

    def _fresh_rewards(self, predict: Predict, prompts: Sequence[str], noise_BSCHW: Tensor) -> Tensor:
        """Return rewards_B of one image of each prompt, at most a micro-batch; see `reward_gain.DrawRewards`."""
        latents_BCHW = self._sampler.latents(predict, noise_BSCHW, self._conditioning(prompts))
        return self._score(prompts, latents_BCHW, where="a measurement")

    def _score(self, prompts: Sequence[str], latents_BCHW: Tensor, *, where: str) -> Tensor:
        """Return rewards_B. JobStoppedError (diverged) when an image is not finite; ValueError when a reward is not."""
        if not bool(latents_BCHW.isfinite().all()):
            message = f"Training diverged: in {where} the policy drew an image that is not finite. Lower the"
            raise JobStoppedError("diverged", f"{message} learning rate or raise beta; the last checkpoint is kept.")
        rewards = []
        for images in self._sampler.pieces(latents_BCHW):
            pictures = to_images(self._bench.backbone.decode_latents(latents_BCHW[images]))
            rewards.append(self._scorer.score(pictures, prompts[images]))
        rewards_B = torch.cat(rewards)
        self._check_rewards(prompts, rewards_B)
        return rewards_B

    def _check_rewards(self, prompts: Sequence[str], rewards_B: Tensor) -> None:
        for prompt, value in zip(prompts, rewards_B.tolist(), strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"Reward {self._reward!r} gave {value} for an image of prompt {prompt!r}; it must be a finite"
                    " number. Check the reward's weights, or name another reward in the recipe."
                )

    # --- an optimiser step ---

    def _judge(self, scored: _ScoredPrompt, *, moved: bool) -> PRDPOutput:
        """Apply the objective to one prompt. Before an epoch's first update the weights are still those that drew."""
        trajectories = scored.trajectories
        old_BT = trajectories.old_log_probs_BT
        log_probs_BT = self._sampler.log_probs(self._silent, trajectories) if moved else old_BT
        rewards_B = -scored.rewards_B if self._bench.recipe.flip_labels else scored.rewards_B
        policy = ScoredTrajectories(log_probs_BT, old_BT, rewards_B)
        return self._objective(policy=policy, reference=trajectories.reference_log_probs_BT, params=self.params)

    def _pieces(self, minibatch: Sequence[_ScoredPrompt], outputs: Sequence[PRDPOutput]) -> Iterator[_Piece]:
        """List every pass that carries a gradient, or one that does not: each process needs one to synchronise."""
        # DDP averages over processes, but the sum over prompts must be divided by the global batch only.
        scale = self._bench.accelerator.num_processes / self._bench.recipe.global_batch
        idle = True
        for scored, output in zip(minibatch, outputs, strict=True):
            coefficients_BT = output.coefficients_BT * (scale * scored.slot.weight)
            for images in self._sampler.pieces(coefficients_BT):
                for step in range(scored.trajectories.num_steps):
                    if bool(coefficients_BT[images, step].any()):
                        idle = False
                        yield _Piece(scored.trajectories, images, step, coefficients_BT[images, step])
        if idle:
            trajectories = minibatch[0].trajectories
            yield _Piece(trajectories, slice(0, 1), 0, torch.zeros(1, dtype=torch.float64))

    def _backward(self, pieces: Sequence[_Piece]) -> None:
        """Run one backward pass per piece, which bounds memory; synchronise gradients after the last."""
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            with self._bench.backward_pass(last=last):
                _backward_piece(self._sampler, self._policy, piece)

    def _sums(self, minibatch: Sequence[_ScoredPrompt], outputs: Sequence[PRDPOutput]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for scored, output in zip(minibatch, outputs, strict=True):
            for name, value in _monitors(output, scored.rewards_B).items():
                so_far = sums.get(name, torch.zeros((), dtype=torch.float64, device=self._bench.device))
                sums[name] = so_far + scored.slot.weight * value
        return sums


def _backward_piece(sampler: AncestralSampler, policy: Predict, piece: _Piece) -> None:
    """Add a piece's gradient. The sum over all pieces is the gradient through the complete trajectories."""
    log_prob_B = sampler.step_log_prob(policy, piece.trajectories, piece.images, piece.step)
    torch.autograd.backward((log_prob_B * piece.coefficients_B.to(log_prob_B.device)).sum())


def _monitors(output: PRDPOutput, rewards_B: Tensor) -> dict[str, float]:
    """Compute the monitors, per prompt. The loss is large by construction; `residual` has the unit of a log-ratio.

    The share of pairs whose log-ratios are ordered as their rewards is not among them: on fresh images, before an
    update, it falls below one half while the reward rises.
    """
    num_pairs = max(1, output.num_pairs)
    return {
        "loss": float(output.loss),
        "residual": float(output.loss.sqrt()),
        "margin": float(output.margins_BB.sum()) / num_pairs,
        "reward": float(rewards_B.double().mean()),
        "reward_spread": float(rewards_B.double().std()),
        "clipped_share": output.clipped_share,
        "all_tied": float(output.num_pairs == 0),
    }
