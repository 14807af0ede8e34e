"""Draw many images of few prompts and measure the gain of the best of N, for candidate, champion and base.

python -m alignment.jobs.coverage --spec CoverageSpec.json --placement P.json --inputs DIR --out DIR

DIR holds, by digest: the base's folder, the weights folders, the judge's folder, the prompts file, and DIR/<SampleSpec
digest>/ of a model that an earlier job sampled for this spec. OUT gets samples/<SampleSpec digest>/ for the others,
coverage_scores.parquet, spec.json and, last, result.json. All processes divide the images; a stopped run keeps its
images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object

from alignment.contracts.coverage import CoverageReport, CoverageSpec
from alignment.contracts.evaluation import ModelRef, Role
from alignment.contracts.jobs import SAMPLES_DIR, SPEC_FILE, Placement
from alignment.evaluation.contact_sheet import evenly_spaced
from alignment.evaluation.model_images import ModelImages
from alignment.evaluation.record import write_table
from alignment.evaluation.sampling import ImageKey, image_grid, missing_images, share_of_rank
from alignment.evaluation.scoring import ScoreRow, score_samples
from alignment.files.durable import file_sha256, write_json
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import device_of, start_processes
from alignment.jobs.shared_output import share_output
from alignment.rewards.interface import load_scorer
from alignment.statistics.comparison import Floats
from alignment.statistics.coverage import coverage_curves
from alignment.statistics.prompts import read_prompts

SCORES_FILE = "coverage_scores.parquet"


@dataclass(frozen=True)
class _Work:
    """The inputs that every step of the job needs."""

    paths: JobPaths
    spec: CoverageSpec
    placement: Placement
    state: PartialState
    grid: list[ImageKey]
    """List every image of one model, prompt by prompt."""

    def own_share(self, keys: Sequence[ImageKey]) -> list[ImageKey]:
        """Return this rank's part of the work."""
        return share_of_rank(keys, self.state.process_index, self.state.num_processes)

    def distinct_models(self) -> dict[str, ModelRef]:
        """Models by the digest of their sample spec."""
        return {self.spec.sample_spec(model).digest: model for model in self.spec.models().values()}

    def folder(self, digest: str) -> Path:
        """Return the folder of a model's images, existing or to be drawn."""
        before = self.paths.inputs / digest
        complete = before.is_dir() and not missing_images(before, self.grid)
        return before if complete else self.paths.out / SAMPLES_DIR / digest


def main(paths: JobPaths) -> None:
    """Run one rank of the job."""
    spec = read_object(paths.spec, CoverageSpec, what="coverage spec")
    placement = read_object(paths.placement, Placement, what="placement")
    prompts = evenly_spaced(read_prompts(paths.input(spec.prompts_digest, "prompts file")), spec.num_prompts)
    work = _Work(paths, spec, placement, start_processes(placement), image_grid(prompts, spec.seeds))
    models = work.distinct_models()
    folders = {digest: work.folder(digest) for digest in models}
    total = 2 * len(models) * len(work.grid)
    images = ModelImages(
        spec.backbone,
        paths.input(spec.base_digest, "base model"),
        spec.sampler,
        device_of(work.state),
        placement.micro_batch,
    )
    with JobProgress(paths.out, total=total, unit="images", enabled=work.state.is_main_process) as progress:
        for number, (digest, model) in enumerate(models.items(), start=1):
            _draw(work, images, model, folders[digest])
            progress.update(number * len(work.grid), f"{model.kind} drawn")
        share_output(work.state, paths.out / SAMPLES_DIR, everywhere=True)
        rows = _score(work, folders)
        progress.update(total, "scored")
    if work.state.is_main_process:
        _leave(work, rows)
    work.state.wait_for_everyone()


def _draw(work: _Work, images: ModelImages, model: ModelRef, folder: Path) -> None:
    """Draw this rank's missing images of one model."""
    missing = missing_images(folder, work.own_share(work.grid))
    if missing:
        base = model.kind == "base"
        weights_dir = None if base else work.paths.input(model.weights_digest, f"{model.kind} weights")
        images.draw(model, weights_dir, missing, folder)


def _score(work: _Work, folders: dict[str, Path]) -> list[ScoreRow]:
    """Score every image of every model with the judge, gathered from all ranks."""
    judge = work.spec.judge
    scorer = load_scorer(judge, work.paths.scorer(judge, "judge"), work.state.device)
    rows, _ = score_samples(
        {judge.name: scorer}, folders, work.own_share(work.grid), micro_batch=work.placement.micro_batch
    )
    return sorted(ScoreRow(*row) for row in gather_object(rows))


def _leave(work: _Work, rows: Sequence[ScoreRow]) -> None:
    """Write the score table, the spec and, last, the report."""
    spec, out = work.spec, work.paths.out
    roles = {role: spec.sample_spec(model).digest for role, model in spec.models().items()}
    cells = [(role, row) for role, digest in roles.items() for row in rows if row.sample_digest == digest]
    columns = {
        "role": pa.array([role for role, _ in cells]),
        "prompt_index": pa.array([row.prompt_index for _, row in cells], pa.int32()),
        "seed": pa.array([row.seed for _, row in cells], pa.int64()),
        "score": pa.array([row.score for _, row in cells], pa.float64()),
    }
    write_table(out / SCORES_FILE, pa.table(columns))
    scores_PN: dict[Role, Floats] = {
        role: np.asarray([row.score for name, row in cells if name == role]).reshape(-1, len(spec.seeds))
        for role in spec.models()
    }
    curves = coverage_curves(scores_PN, bar=spec.bar, confidence=spec.confidence)
    write_json(out / SPEC_FILE, spec.model_dump(mode="json"))
    report = CoverageReport(
        uri="",
        spec=spec,
        scores_digest=file_sha256(out / SCORES_FILE),
        num_prompts=len(work.grid) // len(spec.seeds),
        curves=curves,
    )
    write_result(out, report)


if __name__ == "__main__":
    run_job(main)
