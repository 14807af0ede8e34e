"""The offline step: from a batch of pairs to one loss per pair. It does not touch the optimiser.

B counts pairs, 2B images (all chosen, then all rejected), C H W a latent.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import ForwardProcess
from alignment.catalogues.lookup import resolve
from alignment.catalogues.objectives import ObjectiveParams
from alignment.objectives.inputs import ObjectiveOutput, PairErrors
from alignment.training.batches import PairBatch
from alignment.training.health.phases import PhaseClock
from alignment.training.prediction_norm import PredictionNorms, prediction_norms

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy_BCHW, timesteps_B, conditioning) -> the denoiser's prediction."""


@dataclass(frozen=True)
class _StepOutput:
    """loss_B carries the gradient; `_monitors` are detached, one number per pair each."""

    loss_B: Tensor
    monitors: dict[str, Tensor]


def takes_reference(objective: Callable[..., ObjectiveOutput]) -> bool:
    """Return True when an objective needs a reference pass, which it declares with a `reference` argument."""
    return "reference" in inspect.signature(objective).parameters


class OfflineStep:
    """Noise a pair's two images alike, run policy and reference, and pass the errors to the objective."""

    def __init__(
        self,
        params: ObjectiveParams,
        schedule: ForwardProcess,
        *,
        policy: Predict,
        reference: Predict,
        clock: PhaseClock | None = None,
    ) -> None:
        """`reference` is called only if the objective needs it and the batch does not hold its errors."""
        self.params = params
        self.clock = clock or PhaseClock()
        self.objective: Callable[..., ObjectiveOutput] = resolve(params.implementation)
        self.takes_reference = takes_reference(self.objective)
        self.schedule = schedule
        self.policy = policy
        self.reference = reference

    def __call__(self, batch: PairBatch) -> _StepOutput:
        """Compute loss and monitors of a micro-batch."""
        noised = _noise_pairs(batch, self.schedule)
        inputs: dict[str, Any] = {}
        if self.takes_reference:
            # Before the policy's pass: a LoRA's reference toggles the adapters, which must be on when gradients flow.
            known = batch.known_reference
            inputs["reference"] = PairErrors(**known) if known else self._reference_errors(noised)
        with self.clock.phase("forward"):
            inputs["policy"] = self._errors(self.policy, noised)
            output = self.objective(params=self.params, **inputs)
        return _StepOutput(output.loss_B, _monitors(output, **inputs))

    def reference_errors(self, batch: PairBatch) -> PairErrors:
        """Compute only the reference's errors on a batch."""
        return self._reference_errors(_noise_pairs(batch, self.schedule))

    def _reference_errors(self, noised: "_NoisedPairs") -> PairErrors:
        with self.clock.phase("reference"), torch.no_grad():
            return self._errors(self.reference, noised)

    @torch.no_grad()
    def norms(self, batch: PairBatch, reference: Predict) -> PredictionNorms:
        """Compare the sizes of the policy's and a reference's predictions on a micro-batch, whatever the objective."""
        noised = _noise_pairs(batch, self.schedule)
        inputs = noised.noisy_BCHW, noised.timesteps_B, noised.conditioning
        reference_BCHW = reference(*inputs)
        return prediction_norms(self.policy(*inputs), reference_BCHW, noised.timesteps_B)

    def _errors(self, predict: Predict, noised: "_NoisedPairs") -> PairErrors:
        prediction_BCHW = predict(noised.noisy_BCHW, noised.timesteps_B, noised.conditioning)
        return _pair_errors(prediction_BCHW, noised.target_BCHW)


@dataclass(frozen=True)
class _NoisedPairs:
    """Input and target of the denoiser; leading dimension 2B, all chosen before all rejected."""

    noisy_BCHW: Tensor
    target_BCHW: Tensor
    timesteps_B: Tensor
    conditioning: Conditioning


def _noise_pairs(batch: PairBatch, schedule: ForwardProcess) -> _NoisedPairs:
    """Noise both images of each pair with the pair's single noise at its single timestep."""
    latents_BCHW = torch.cat([batch.chosen_BCHW, batch.rejected_BCHW])
    noise_BCHW = torch.cat([batch.noise_BCHW, batch.noise_BCHW])
    timesteps_B = torch.cat([batch.timesteps_B, batch.timesteps_B])
    return _NoisedPairs(
        noisy_BCHW=schedule.add_noise(latents_BCHW, noise_BCHW, timesteps_B),
        target_BCHW=schedule.target(latents_BCHW, noise_BCHW, timesteps_B),
        timesteps_B=timesteps_B,
        conditioning={
            name: torch.cat([states, batch.rejected_captions[name]]) for name, states in batch.chosen_captions.items()
        },
    )


def _pair_errors(prediction_BCHW: Tensor, target_BCHW: Tensor) -> PairErrors:
    """Mean squared errors of 2B predictions, in float32 whatever the precision of the forward pass.

    The objective multiplies differences of errors by thousands; the rounding of half precision would hide them.
    """
    squared = (prediction_BCHW.float() - target_BCHW.float()).square()
    chosen_B, rejected_B = squared.flatten(1).mean(dim=1).chunk(2)
    return PairErrors(chosen_B, rejected_B)


@torch.no_grad()
def _monitors(output: ObjectiveOutput, policy: PairErrors, reference: PairErrors | None = None) -> dict[str, Tensor]:
    """Compute the monitors, per pair. Both errors usually rise under DPO; compare their rise with the reference.

    An exact tie counts half in the accuracy, as in diffusers; the authors' script counts it as wrong.
    """
    watched = {
        "loss": output.loss_B.detach(),
        "margin": output.margin_B,
        "implicit_accuracy": (output.margin_B.sign() + 1) / 2,
        "chosen_error": policy.chosen_B.detach(),
        "rejected_error": policy.rejected_B.detach(),
    }
    if reference is not None:
        watched["chosen_error_minus_reference"] = policy.chosen_B.detach() - reference.chosen_B
        watched["rejected_error_minus_reference"] = policy.rejected_B.detach() - reference.rejected_B
    return watched
