"""Caption a snapshot's images: `python -m alignment.jobs.caption --spec ... --out ...`.

The inputs folder holds, by digest, the snapshot and, unless only prompts are perturbed, the captioner. OUT becomes a
snapshot, see `alignment.labelling.captioned_pairs`, and gets result.json last.
"""

import logging
from pathlib import Path

from accelerate import PartialState

from alignment.contracts.captions import CaptionSpec, PerturbedPrompts
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.jobs import SPEC_FILE, Placement
from alignment.data.pairs import TrainingPairs
from alignment.files.durable import content_digest
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, claim_output, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.jobs.shared_output import share_output
from alignment.labelling.captioned_pairs import ImageCaptions, Texts, pair_texts, snapshot_files, write_captioned
from alignment.labelling.captions import BlipCaptioner

logger = logging.getLogger(__name__)


def main(paths: JobPaths) -> None:
    """Read the spec, caption this rank's shards, and on rank 0 write the new snapshot and the result."""
    spec = read_object(paths.spec, CaptionSpec, what="caption spec")
    placement = read_object(paths.placement, Placement, what="placement")
    snapshot_dir = paths.input(spec.snapshot.content_digest, "snapshot")
    pairs = TrainingPairs(snapshot_dir)
    state = start_processes(placement)
    claim_output(paths, spec, "caption spec", wait=state.wait_for_everyone, writes=state.is_main_process)
    generated = [] if isinstance(spec.method, PerturbedPrompts) else _generate(paths, spec, pairs, state)
    if state.is_main_process:
        texts = pair_texts(spec.method, pairs, generated)
        write_captioned(snapshot_dir, paths.out, texts)
        write_result(paths.out, _result(spec, paths.out))
    state.wait_for_everyone()


def _generate(paths: JobPaths, spec: CaptionSpec, pairs: TrainingPairs, state: PartialState) -> Texts:
    """Caption both images of each pair; every process takes shards and waits for the others."""
    assert not isinstance(spec.method, PerturbedPrompts)
    settings = spec.method.captioner
    captioner = BlipCaptioner(paths.input(settings.weights_digest, "captioner"), settings, state.device)
    images = ImageCaptions(pairs, paths.out, shard_images=spec.shard_images)
    with JobProgress(
        paths.out,
        total=len(images.shards),
        unit="shards",
        done=images.num_finished(),
        enabled=state.is_main_process,
    ) as progress:
        images.write(
            captioner.captions,
            state.process_index,
            state.num_processes,
            on_shard=lambda: progress.update(images.num_finished()),
        )
        share_output(state, paths.out, everywhere=True)
        progress.update(images.num_finished())
    logger.info("captioned %d distinct images of %d pairs", images.num_images, len(pairs))
    return images.texts()


def _result(spec: CaptionSpec, out: Path) -> DatasetSnapshot:
    """Describe the new snapshot: another location, other file digests, the number of captioned pairs; only pairs."""
    files = [out / SPEC_FILE, *snapshot_files(out)]
    return spec.snapshot.model_copy(
        update={
            "content_digest": content_digest(out, files),
            "num_captioned": TrainingPairs(out).num_captioned,
            "num_unpaired": None,
        }
    )


if __name__ == "__main__":
    run_job(main)
