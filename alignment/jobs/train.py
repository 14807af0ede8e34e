"""Train a recipe on a feature cache: `python -m alignment.jobs.train --spec S --placement P --inputs DIR --out DIR`."""

import logging
from pathlib import Path

from alignment.backbones.interface import Backbone
from alignment.contracts import Placement, TrainResult, TrainSpec
from alignment.data.features import CachedFeatures
from alignment.durable import content_digest
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.lookup import resolve
from alignment.objectives.catalogue import check_captions
from alignment.training.loop import WEIGHTS_DIR, RunInputs, TrainingRun
from alignment.training.metrics import final_means

logger = logging.getLogger(__name__)


def main(paths: JobPaths) -> None:
    """Read the spec, train, and on rank 0 write the result. Resumes whatever OUT holds."""
    spec = read_object(paths.spec, TrainSpec, what="train spec")
    placement = read_object(paths.placement, Placement, what="placement")
    features = CachedFeatures(paths.input(spec.cache_digest, "feature cache"))
    check_match(spec, features)
    base_dir = paths.input(spec.base_digest, "base model")
    state = start_processes(placement)
    params = spec.recipe.backbone
    backbone: Backbone = resolve(params.implementation)(base_dir, params, state.device)
    TrainingRun(RunInputs(spec, placement, backbone, features, paths.out)).run()
    if state.is_main_process:
        write_result(paths.out, result_of(spec, features, paths.out))
    state.wait_for_everyone()


def check_match(spec: TrainSpec, features: CachedFeatures) -> None:
    """ValueError when the cache was encoded by another base or for another backbone, or lacks captions it needs."""
    encoded = features.index.spec
    if encoded.base_digest != spec.base_digest:
        raise ValueError(
            f"The feature cache was encoded by base model {encoded.base_digest}, the spec trains {spec.base_digest}. "
            "Encode the snapshot again with that base."
        )
    if encoded.backbone != spec.recipe.backbone:
        raise ValueError(
            f"The feature cache was encoded for {encoded.backbone!r}, the recipe asks for {spec.recipe.backbone!r}. "
            "Encode the snapshot again, or change the recipe's backbone."
        )
    if spec.recipe.objective.needs_captions and not features.has_captions():
        check_captions(spec.recipe.objective, 0, "the feature cache")


def result_of(spec: TrainSpec, features: CachedFeatures, out: Path) -> TrainResult:
    """What the finished output folder holds."""
    return TrainResult(
        uri="",
        spec_digest=spec.digest,
        kind=spec.recipe.tuning.kind,
        weights_digest=content_digest(out / WEIGHTS_DIR),
        base_digest=spec.base_digest,
        steps=spec.recipe.steps,
        num_pairs=features.index.num_pairs,
        final_metrics=final_means(out, spec.recipe.steps),
    )


if __name__ == "__main__":
    run_job(main)
