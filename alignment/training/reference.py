"""Policy and reference as functions of a noisy latent: same precision, same call, different weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alignment.backbones.interface import Backbone, Conditioning
from alignment.contracts.training import FullFineTune, Recipe
from alignment.training.offline import Predict
from alignment.training.precision import autocast
from alignment.training.update import Workbench


def predictor(backbone: Backbone, denoiser: nn.Module, recipe: Recipe, device: torch.device) -> Predict:
    """Wrap the denoiser's forward pass, under autocast when the recipe sets it."""

    def predict(noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        with autocast(recipe.precision, device):
            return backbone.predict(denoiser, noisy_BCHW, timesteps_B, conditioning)

    return predict


def reference_predictor(bench: Workbench) -> Predict:
    """Return the base model's prediction: a frozen copy for a full fine-tune, the disabled adapter for a LoRA.

    It is always the base, also when a run resumes from partly trained weights.
    """
    backbone, recipe, device = bench.backbone, bench.recipe, bench.device
    if isinstance(recipe.tuning, FullFineTune):
        return predictor(backbone, bench.load_base(), recipe, device)
    return _without_adapter(backbone, bench.denoiser, predictor(backbone, bench.denoiser, recipe, device))


def _without_adapter(backbone: Backbone, denoiser: nn.Module, predict: Predict) -> Predict:
    def predict_reference(noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        backbone.set_adapter(denoiser, enabled=False)
        try:
            return predict(noisy_BCHW, timesteps_B, conditioning)
        finally:
            backbone.set_adapter(denoiser, enabled=True)

    return predict_reference


def never(what: str) -> Callable[..., Tensor]:
    """Placeholder for a part that is not loaded because it must not be called."""

    def refuse(noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        raise AssertionError(f"{what} was not loaded, but it was called")

    return refuse
