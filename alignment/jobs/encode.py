"""Encode a snapshot's training pairs into a feature cache: `python -m alignment.jobs.encode --spec ... --out ...`."""

import logging
import shutil
from pathlib import Path

from alignment.backbones.interface import Backbone
from alignment.catalogues.lookup import resolve
from alignment.contracts.data import EncodeSpec, FeatureCache
from alignment.contracts.jobs import SPEC_FILE, JobStoppedError, Placement
from alignment.data.feature_writing import FeatureWriter
from alignment.data.pairs import TrainingPairs
from alignment.files.durable import content_digest
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, claim_output, read_object, run_job, write_result
from alignment.jobs.processes import device_of, start_processes
from alignment.jobs.shared_output import share_output

logger = logging.getLogger(__name__)

DECODE_THREADS = 4
"""Fewest threads that decode images for a GPU; Pillow decodes without holding Python's lock."""
GIB = 1024**3


def main(paths: JobPaths) -> None:
    """Read the spec, encode this rank's shards, and on rank 0 write index and result."""
    spec = read_object(paths.spec, EncodeSpec, what="encode spec")
    placement = read_object(paths.placement, Placement, what="placement")
    pairs = TrainingPairs(paths.input(spec.snapshot_digest, "snapshot"))
    base_dir = paths.input(spec.base_digest, "base model")
    state = start_processes(placement)
    backbone: Backbone = resolve(spec.backbone.implementation)(base_dir, spec.backbone, state.device)
    claim_output(paths, spec, "encode spec", wait=state.wait_for_everyone, writes=state.is_main_process)
    threads = placement.threads_per_process
    threads = threads if device_of(state).type == "cpu" else max(threads, DECODE_THREADS)
    writer = FeatureWriter(pairs, backbone, spec, paths.out, threads=threads)
    if state.is_main_process:  # its host receives the shards of all
        _check_space(paths.out, writer)
    with JobProgress(
        paths.out,
        total=len(writer.shards),
        unit="shards",
        done=writer.num_finished(),
        enabled=state.is_main_process,
    ) as progress:
        writer.write(state.process_index, state.num_processes, lambda: progress.update(writer.num_finished()))
        share_output(state, paths.out)
        progress.update(writer.num_finished())
    if state.is_main_process:
        _finish(paths, spec, writer)
    state.wait_for_everyone()


def _check_space(out: Path, writer: FeatureWriter) -> None:
    """Log the size of the work. JobStoppedError (storage_full) when the disk cannot hold the cache."""
    needed, free = writer.bytes_to_write(), shutil.disk_usage(out).free
    images = 2 * len(writer.pairs) if writer.images is None else len(writer.images)
    logger.info(
        "%d pairs: %d images and %d captions to encode; %.1f GiB to write, %.1f GiB free",
        *(len(writer.pairs), images, len(writer.captions)),
        *(needed / GIB, free / GIB),
    )
    if needed > free:
        raise JobStoppedError(
            "storage_full",
            f"The feature cache of {len(writer.pairs)} pairs needs {needed / GIB:.1f} GiB in {out}, where"
            f" {free / GIB:.1f} GiB are free. Free space and run the job again, or make the cache smaller: in"
            ' [features], moments = "bf16" halves the latents, and distinct_images = true stores repeated images once.',
        )


def _finish(paths: JobPaths, spec: EncodeSpec, writer: FeatureWriter) -> None:
    index = writer.finish()
    result = FeatureCache(
        uri="",
        content_digest=content_digest(paths.out, [paths.out / SPEC_FILE, *writer.files()]),
        spec_digest=spec.digest,
        num_pairs=index.num_pairs,
        num_captions=index.num_captions,
        num_captioned=writer.num_captioned,
        latent_shape=index.latent_shape,
    )
    write_result(paths.out, result)
    logger.info("encoded %d pairs and %d captions", index.num_pairs, index.num_captions)
    for bucket in index.buckets:
        logger.info("bucket %d x %d: %d pairs", bucket.width, bucket.height, bucket.num_pairs)


if __name__ == "__main__":
    run_job(main)
