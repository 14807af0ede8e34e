"""Compare the size of the policy's predictions with the base's, by timestep.

Preference training can make the denoiser's predictions longer: rewards rise while images get harsh and oversaturated.
Source: NormGuard, arXiv:2606.27771, which found it under NFT, AWM and DPO. It needs neither a judge nor an image.
B counts latents, C H W are a latent's channels, height and width.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.contracts.jobs import NORM_BINS, NORM_RATIO
from alignment.training.batches import Visit

logger = logging.getLogger(__name__)

NUM_PAIRS = 32
"""Pairs whose latents the offline measurement uses."""


@dataclass(frozen=True)
class PredictionNorms:
    """Sizes of two models' predictions on the same noisy latents, float64 on the CPU."""

    timesteps_B: Tensor
    policy_B: Tensor
    reference_B: Tensor


def fixed_visits(num_pairs: int) -> list[Visit]:
    """Return visits spread over a cache, each with noise and a timestep that no step of a training uses."""
    return [Visit(number * num_pairs // NUM_PAIRS, -1 - number) for number in range(NUM_PAIRS)]


def prediction_norms(policy_BCHW: Tensor, reference_BCHW: Tensor, timesteps_B: Tensor) -> PredictionNorms:
    """Return root mean squares of predictions over C, H, W, so that latents of different sizes count alike."""
    policy_B, reference_B = (
        prediction_BCHW.detach().double().square().flatten(1).mean(dim=1).sqrt().cpu()
        for prediction_BCHW in (policy_BCHW, reference_BCHW)
    )
    return PredictionNorms(timesteps_B.detach().double().cpu(), policy_B, reference_B)


def norm_metrics(parts: Sequence[PredictionNorms]) -> dict[str, float]:
    """Return E||policy|| / E||reference|| of each bin as a metric; empty when a value is not finite.

    Bins hold equal numbers of latents in order of their timesteps. Bin 0 has the least noise.
    """
    order_B = torch.cat([part.timesteps_B for part in parts]).argsort(stable=True)
    policy_B, reference_B = (
        torch.cat([getattr(part, name) for part in parts])[order_B] for name in ("policy_B", "reference_B")
    )
    bins = zip(policy_B.tensor_split(NORM_BINS), reference_B.tensor_split(NORM_BINS), strict=True)
    ratios = [float(own_B.mean() / base_B.mean()) for own_B, base_B in bins]
    return {f"{NORM_RATIO}{number}": ratio for number, ratio in enumerate(ratios) if all(map(math.isfinite, ratios))}


def spare_norm_metrics(norms: Callable[[], Sequence[PredictionNorms]], *, jointly: bool) -> dict[str, float]:
    """Measure the norms and return their metrics; the state of the random generators is restored.

    A base that no longer fits beside the trained weights leaves the run without the figure, not without its result.
    With `jointly` all processes measure together, so there the error ends the run on all.
    """
    try:
        with torch.random.fork_rng():
            return norm_metrics(norms())
    except torch.OutOfMemoryError as error:
        if jointly:
            raise
        logger.warning("The norms of the predictions were not compared with the base's: %s", error)
        return {}
