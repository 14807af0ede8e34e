"""Train a recipe on a feature cache, or online on prompts and a reward.

`python -m alignment.jobs.train --spec S --placement P --inputs DIR --out DIR`
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from alignment.backbones.interface import Backbone
from alignment.catalogues.lookup import resolve
from alignment.catalogues.objectives import DCPO, DiffusionDPO
from alignment.contracts.jobs import WEIGHTS_DIR, Placement
from alignment.contracts.precision import noise_warning
from alignment.contracts.reference_errors import reference_spec
from alignment.contracts.training import Recipe, TrainResult, TrainSpec, check_adaptive, check_sharding
from alignment.data.prompt_lines import PromptLines
from alignment.files.durable import content_digest
from alignment.jobs.checked_features import open_checked
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.rewards.interface import load_scorer
from alignment.training.adaptive import train_adaptively
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.metrics import final_means
from alignment.training.offline_update import OfflineUpdate
from alignment.training.online import OnlineUpdate
from alignment.training.reference_errors import KnownErrors, read_errors
from alignment.training.update import MakeUpdate

logger = logging.getLogger(__name__)


def main(paths: JobPaths) -> None:
    """Read the spec, train, and on rank 0 write the result. Resumes an unfinished run in OUT."""
    spec = read_object(paths.spec, TrainSpec, what="train spec")
    placement = read_object(paths.placement, Placement, what="placement")
    check_sharding(spec.recipe, placement)
    check_adaptive(spec.recipe, placement)
    material = _open_prompts(spec, paths) if spec.online else _open_cache(spec, paths)
    base_dir = paths.input(spec.base_digest, "base model")
    state = start_processes(placement)
    params = spec.recipe.backbone
    backbone: Backbone = resolve(params.implementation)(base_dir, params, state.device)
    if state.is_main_process:
        _warn_of_noise(spec.recipe, backbone)
    make_update = material.make_update(state.device)
    inputs = RunInputs(spec, placement, backbone, make_update, paths.out)
    train_adaptively(lambda: TrainingRun(inputs).run(), paths.out, alone=state.num_processes == 1)
    if state.is_main_process:
        write_result(paths.out, _result_of(spec, paths.out, num_pairs=material.num_pairs))
    state.wait_for_everyone()


def _warn_of_noise(recipe: Recipe, backbone: Backbone) -> None:
    """Log a warning when rounding makes the margin of a preference objective noisy."""
    if isinstance(recipe.objective, (DCPO, DiffusionDPO)):
        values = math.prod(backbone.latent_shape)
        if warning := noise_warning(recipe.precision, recipe.objective.beta, values):
            logger.warning("%s", warning)


@dataclass(frozen=True)
class _Material:
    """Check the run's training data; `make_update` loads the large parts on the process's device."""

    num_pairs: int
    make_update: Callable[[torch.device], MakeUpdate]


def _open_cache(spec: TrainSpec, paths: JobPaths) -> _Material:
    """Open the feature cache of an offline objective; ValueError when it is missing or does not fit the spec."""
    assert spec.cache_digest is not None
    features = open_checked(paths, spec.cache_digest, spec.base_digest, spec.recipe)
    num_pairs = features.index.num_pairs
    known = _open_reference(spec, paths, num_pairs)
    return _Material(num_pairs, lambda device: partial(OfflineUpdate, features, known=known))


def _open_reference(spec: TrainSpec, paths: JobPaths, num_pairs: int) -> KnownErrors | None:
    """Read the reference's errors if they are among the inputs; they are not part of the science, so they need not be.

    ValueError when they do not fit the spec.
    """
    wanted = reference_spec(spec)
    if wanted is None or not (folder := paths.inputs / wanted.key).is_dir():
        return None
    logger.info("the reference's errors were computed before")
    return read_errors(folder, wanted, num_pairs)


def _open_prompts(spec: TrainSpec, paths: JobPaths) -> _Material:
    """Open prompts and reward of an online objective; ValueError when one is missing or the file is malformed."""
    assert spec.online is not None
    reward = spec.online.reward
    prompts = PromptLines(paths.input(spec.online.prompts_digest, "prompts file"))
    weights_dir = paths.scorer(reward, "reward")

    def make_update(device: torch.device) -> MakeUpdate:
        return partial(OnlineUpdate, prompts, load_scorer(reward, weights_dir, device), reward.name)

    return _Material(len(prompts), make_update)


def _result_of(spec: TrainSpec, out: Path, *, num_pairs: int) -> TrainResult:
    """Describe the finished output folder."""
    return TrainResult(
        uri="",
        spec_digest=spec.digest,
        kind=spec.recipe.tuning.kind,
        weights_digest=content_digest(out / WEIGHTS_DIR),
        base_digest=spec.base_digest,
        steps=spec.recipe.steps,
        num_pairs=num_pairs,
        trained_on=spec.online.reward.training_sources if spec.online else (),
        selected_by=spec.recipe.selected_by,
        final_metrics=final_means(out, spec.recipe.steps),
    )


if __name__ == "__main__":
    run_job(main)
