"""Compute the base's errors that several trainings share: `python -m alignment.jobs.reference_errors --spec ...`."""

import logging

from accelerate import PartialState

from alignment.backbones.interface import Backbone
from alignment.catalogues.lookup import resolve
from alignment.contracts.jobs import METRICS_FILE, SPEC_FILE, Placement
from alignment.contracts.reference_errors import ReferenceErrors, ReferenceSpec
from alignment.data.features import CachedFeatures
from alignment.files.durable import content_digest
from alignment.files.progress import JobProgress
from alignment.jobs.checked_features import open_checked
from alignment.jobs.outcome import JobPaths, claim_output, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.jobs.shared_output import share_output
from alignment.training.metrics import append_metrics
from alignment.training.offline import OfflineStep
from alignment.training.reference import never, predictor
from alignment.training.reference_errors import ReferenceWriter, Team

logger = logging.getLogger(__name__)

MICRO_BATCHES_AT_ONCE = 4
"""Micro-batches of a training in one pass: without a gradient a pass keeps the activations of a single layer."""


def main(paths: JobPaths) -> None:
    """Read the spec, compute this rank's pieces, and on rank 0 write the result."""
    spec = read_object(paths.spec, ReferenceSpec, what="reference errors spec")
    placement = read_object(paths.placement, Placement, what="placement")
    features = open_checked(paths, spec.cache_digest, spec.base_digest, spec.common)
    base_dir = paths.input(spec.base_digest, "base model")
    state = start_processes(placement)
    params = spec.common.backbone
    backbone: Backbone = resolve(params.implementation)(base_dir, params, state.device)
    claim_output(paths, spec, "reference errors spec", wait=state.wait_for_everyone, writes=state.is_main_process)
    writer = _writer(spec, placement, features, backbone, paths, state)
    team = Team(state.process_index, state.num_processes, state.is_local_main_process, state.wait_for_everyone)
    main_process = state.is_main_process
    with JobProgress(
        paths.out, total=len(writer.pieces), unit="pieces", done=writer.num_finished(), enabled=main_process
    ) as progress:

        def on_piece(pairs_per_second: float) -> None:
            done = writer.num_finished()
            if main_process:
                append_metrics(paths.out, done, {"pairs_per_second": pairs_per_second * team.num_processes})
            progress.update(done)

        writer.write(team, on_piece)
        share_output(state, paths.out)
        progress.update(writer.num_finished())
    if main_process:
        _finish(paths, spec, writer)
    state.wait_for_everyone()


def _writer(
    spec: ReferenceSpec,
    placement: Placement,
    features: CachedFeatures,
    backbone: Backbone,
    paths: JobPaths,
    state: PartialState,
) -> ReferenceWriter:
    device = state.device
    assert device is not None
    base = predictor(backbone, backbone.load_denoiser(), spec.common, device)
    step = OfflineStep(spec.common.objective, backbone.schedule.on(device), policy=never("a policy"), reference=base)
    return ReferenceWriter(
        spec,
        features,
        step,
        out=paths.out,
        device=device,
        pairs_at_once=MICRO_BATCHES_AT_ONCE * placement.micro_batch,
    )


def _finish(paths: JobPaths, spec: ReferenceSpec, writer: ReferenceWriter) -> None:
    files = [paths.out / SPEC_FILE, *writer.pieces]
    if (metrics := paths.out / METRICS_FILE).is_file():
        files.append(metrics)
    result = ReferenceErrors(
        uri="",
        content_digest=content_digest(paths.out, files),
        spec_digest=spec.digest,
        key=spec.key,
        num_visits=spec.common.steps,
    )
    write_result(paths.out, result)
    logger.info("computed the base's errors in %d visits of pairs", spec.common.steps)


if __name__ == "__main__":
    run_job(main)
