"""Sample candidate, champion and base on the same prompts and seeds, score them, calibrate the judges, compare.

python -m alignment.jobs.evaluate --spec EvalSpec.json --placement P.json --inputs DIR --out DIR

DIR holds, by digest: the base's folder, the weights folders, the judges' folders, the prompts file, the snapshot, and
DIR/<SampleSpec digest>/ of a model that an earlier evaluation has sampled already. OUT gets samples/<SampleSpec
digest>/ for the others, scores.parquet, calibration_scores.parquet, contact_sheet.png and its prompts in .json,
extremes.json with extremes/, spec.json and, last, result.json. Any number of processes may run it together; they
divide the images. A killed run continues where it stopped.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from alignment.contracts.evaluation import EvalSpec, ModelRef, SampleSpec
from alignment.contracts.jobs import SAMPLES_DIR, SPEC_FILE, Placement
from alignment.contracts.judges import Judge
from alignment.evaluation.model_images import ModelImages
from alignment.evaluation.partial_scores import PIECE_PROMPTS, Piece, ScorePieces
from alignment.evaluation.record import (
    Record,
    make_report,
    shuffle_of,
    write_calibration_scores,
    write_contact_sheet,
    write_extremes,
    write_scores,
)
from alignment.evaluation.sampling import ImageKey, image_grid, missing_images, share_of_rank
from alignment.evaluation.scoring import (
    CALIBRATION_FILE,
    CalibrationRow,
    ScoreRow,
    calibration_pairs,
    num_calibration_pairs,
    score_calibration,
    score_prompts,
    score_samples,
)
from alignment.files.durable import write_json
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import device_of, start_processes
from alignment.jobs.shared_output import share_output
from alignment.rewards.interface import Scorer, load_scorer
from alignment.statistics.human_pairs import PairFacts, known_facts
from alignment.statistics.prompts import EvalPrompt, read_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _EvaluationContext:
    """The inputs that every step of the job needs."""

    spec: EvalSpec
    placement: Placement
    paths: JobPaths
    state: PartialState
    prompts: list[EvalPrompt]
    snapshot_dir: Path

    @property
    def grid(self) -> list[ImageKey]:
        """List every image of one model."""
        return image_grid(self.prompts, self.spec.seeds)

    def sample_specs(self) -> dict[str, SampleSpec]:
        """Distinct models to sample, by the digest of their sample spec."""
        specs = [self.spec.sample_spec(model) for model in self.spec.models().values()]
        return {spec.digest: spec for spec in specs}

    def roles(self) -> dict[str, str]:
        """Role to the digest of its sample spec."""
        return {role: self.spec.sample_spec(model).digest for role, model in self.spec.models().items()}

    def own_share(self, keys: Sequence[ImageKey]) -> list[ImageKey]:
        """Return this rank's part of the work."""
        return share_of_rank(keys, self.state.process_index, self.state.num_processes)

    def model_images(self) -> ModelImages:
        """Return what draws the images of all models."""
        spec = self.spec
        return ModelImages(
            spec.backbone,
            self.paths.input(spec.base_digest, "base model"),
            spec.sampler,
            device_of(self.state),
            self.placement.micro_batch,
        )

    def weights_dir(self, model: ModelRef) -> Path | None:
        """Return the weights folder of a model; None for the base."""
        return None if model.kind == "base" else self.paths.input(model.weights_digest, f"{model.kind} weights")


def main(paths: JobPaths) -> None:
    """Run one rank of the evaluation."""
    work = _open_context(paths)
    share_output(work.state, paths.out / SAMPLES_DIR, everywhere=True)  # all ranks must see the same images as missing
    folders = {digest: _find_samples(work, digest) for digest in work.sample_specs()}
    missing = {digest: missing_images(folder, work.grid) for digest, folder in folders.items()}
    to_sample = sum(len(keys) for keys in missing.values())
    to_score = len(work.grid) * len(folders)
    pairs = num_calibration_pairs(work.snapshot_dir)
    work.state.wait_for_everyone()
    with JobProgress(
        paths.out, total=to_sample + to_score + 2 * pairs, unit="images", enabled=work.state.is_main_process
    ) as progress:
        _sample_missing(work, folders, missing, progress)
        scorers = _load_scorers(work)
        rows, blank = _score_all(work, scorers, folders, progress, done=to_sample)
        calibration_rows = _calibrate_all(work, scorers, progress, done=to_sample + to_score)
    if work.state.is_main_process:
        record = Record(paths.out, work.spec, work.prompts, folders)
        digests = {name: scorer.digest for name, scorer in scorers.items()}
        facts = known_facts(work.snapshot_dir, CALIBRATION_FILE)
        _leave(record, rows, digests, calibration_rows=calibration_rows, facts=facts, blank=blank)
    work.state.wait_for_everyone()
    work.state.destroy_process_group()


def _open_context(paths: JobPaths) -> _EvaluationContext:
    """Read the job's inputs. ValueError for input that the user has to fix."""
    spec = read_object(paths.spec, EvalSpec, "evaluation spec")
    placement = read_object(paths.placement, Placement, "placement")
    names = [scorer.name for scorer in (*spec.judges, *spec.guards)]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"Judges and guards share the names {', '.join(doubled)}. Give each a unique name.")
    return _EvaluationContext(
        spec=spec,
        placement=placement,
        paths=paths,
        state=start_processes(placement),
        prompts=read_prompts(paths.input(spec.prompts_digest, "prompts file")),
        snapshot_dir=paths.input(spec.snapshot_digest, "snapshot"),
    )


def _leave(
    record: Record,
    rows: Sequence[ScoreRow],
    scorer_digests: dict[str, str],
    *,
    calibration_rows: Sequence[CalibrationRow],
    facts: Mapping[str, PairFacts],
    blank: Sequence[str],
) -> None:
    """Write every file of the evaluation, result.json last."""
    write_scores(record, rows, scorer_digests)
    digest = write_calibration_scores(record, calibration_rows, facts)
    write_contact_sheet(record)
    write_extremes(record)
    write_json(record.out / SPEC_FILE, record.spec.model_dump(mode="json"))
    report = make_report(record, calibration_rows, blank, facts=facts, calibration_scores_digest=digest)
    write_result(record.out, report)


# --- sampling -----------------------------------------------------------------------------------------------------


def _find_samples(work: _EvaluationContext, digest: str) -> Path:
    """Return the folder of a model's images: among the inputs when it was sampled before, else in the output."""
    sampled_before = work.paths.inputs / digest
    if sampled_before.is_dir():
        lacking = len(missing_images(sampled_before, work.grid))
        if not lacking:
            return sampled_before
        logger.warning("%s lacks %d images; the model is sampled again", sampled_before, lacking)
    return work.paths.out / SAMPLES_DIR / digest


def _sample_missing(
    work: _EvaluationContext, folders: dict[str, Path], missing: dict[str, list[ImageKey]], progress: JobProgress
) -> None:
    """Draw the missing images, one model after the other."""
    total = sum(len(keys) for keys in missing.values())
    roles = {digest: role for role, digest in reversed(work.roles().items())}
    images = work.model_images()
    for digest, keys in missing.items():

        def after_batch(_: int, digest: str = digest) -> None:
            if progress.enabled:
                left = sum(len(missing_images(folders[d], lacking)) for d, lacking in missing.items())
                progress.update(total - left, f"sampling {roles[digest]}")

        own_share = work.own_share(keys)
        if own_share:
            model = work.sample_specs()[digest].model
            weights_dir = work.weights_dir(model)
            images.draw(model, weights_dir, own_share, folders[digest], after_batch=after_batch)
    share_output(work.state, work.paths.out / SAMPLES_DIR, everywhere=True)


# --- scoring ------------------------------------------------------------------------------------------------------


def _load_scorers(work: _EvaluationContext) -> dict[str, Scorer]:
    """Judges and guards by name."""
    scorers: tuple[Judge, ...] = (*work.spec.judges, *work.spec.guards)
    return {scorer.name: load_scorer(scorer, work.paths.scorer(scorer), work.state.device) for scorer in scorers}


def _score_all(
    work: _EvaluationContext, scorers: dict[str, Scorer], folders: dict[str, Path], progress: JobProgress, *, done: int
) -> tuple[list[ScoreRow], list[str]]:
    """Score every image of every model, gathered from all ranks; also return the blank images.

    Ranks divide the prompts, not the images, because some scorers compare a prompt's seeds. Finished pieces are kept.
    """
    own_share = share_of_rank(work.prompts, work.state.process_index, work.state.num_processes)
    kept = ScorePieces(work.paths.out, {name: scorer.digest for name, scorer in scorers.items()}, list(folders))
    share = len(work.grid) * len(folders) / max(1, len(own_share))
    pieces: list[Piece] = []
    for start in range(0, len(own_share), PIECE_PROMPTS):
        prompts = own_share[start : start + PIECE_PROMPTS]
        indices = [prompt.index for prompt in prompts]
        piece = kept.read(indices)
        if piece is None:
            piece = _score_piece(work, scorers, folders, image_grid(prompts, work.spec.seeds))
            kept.write(indices, piece)
        pieces.append(piece)
        progress.update(done + round((start + len(prompts)) * share), "scoring")
    rows = [row for piece in pieces for row in piece.rows]
    blank = [name for piece in pieces for name in piece.blank]
    return [ScoreRow(*row) for row in gather_object(rows)], sorted(gather_object(blank))


def _score_piece(
    work: _EvaluationContext, scorers: dict[str, Scorer], folders: dict[str, Path], keys: list[ImageKey]
) -> Piece:
    """Score images under every scorer: each image alone (judges also against other prompts), or a prompt's together."""
    together = {s.name for s in (*work.spec.judges, *work.spec.guards) if s.scorer.per_prompt}
    rows, blank = score_samples(
        {name: scorer for name, scorer in scorers.items() if name not in together},
        folders,
        keys,
        micro_batch=work.placement.micro_batch,
        shuffle=shuffle_of(Record(work.paths.out, work.spec, work.prompts, folders)),
    )
    if together:
        rows += score_prompts({name: scorers[name] for name in sorted(together)}, folders, keys)
    return Piece(rows, blank)


def _calibrate_all(
    work: _EvaluationContext, scorers: dict[str, Scorer], progress: JobProgress, *, done: int
) -> list[CalibrationRow]:
    """Score every calibration pair under every judge, gathered from all ranks."""
    judges = {judge.name: scorers[judge.name] for judge in work.spec.judges}
    ranks = work.state.num_processes
    total = 2 * num_calibration_pairs(work.snapshot_dir)
    rows = score_calibration(
        judges,
        calibration_pairs(work.snapshot_dir, rank=work.state.process_index, world_size=ranks),
        micro_batch=work.placement.micro_batch,
        after_batch=lambda n: progress.update(done + min(total, 2 * n * ranks), "checking judges"),
    )
    return sorted(CalibrationRow(*row) for row in gather_object(rows))


if __name__ == "__main__":
    run_job(main)
