"""Check judges against held-out human pairs.

`python -m alignment.jobs.calibrate --spec S --placement P --inputs DIR --out DIR`

DIR holds, by digest, the snapshot and the judges' folders. OUT gets calibration_scores.parquet, spec.json and, last,
result.json: a CalibrationReport. All processes divide the pairs. A killed run starts from the beginning: it scores
two images per pair, which takes minutes.
"""

from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import gather_object

from alignment.contracts.calibration import CalibrationReport, CalibrationSpec
from alignment.contracts.jobs import CALIBRATION_SCORES_FILE, SPEC_FILE, Placement
from alignment.data.human_labels import read_ballots
from alignment.evaluation.record import write_table
from alignment.evaluation.scoring import (
    CALIBRATION_FILE,
    CalibrationRow,
    calibration_pairs,
    num_calibration_pairs,
    score_calibration,
)
from alignment.files.durable import file_sha256, write_json
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.rewards.interface import load_scorer
from alignment.statistics.human_pairs import read_facts, scores_table, with_comparisons
from alignment.statistics.judge_calibration import calibrate_judge, rater_reliability


def main(paths: JobPaths) -> None:
    """Score this rank's pairs; rank 0 then writes the report."""
    spec = read_object(paths.spec, CalibrationSpec, "calibration spec")
    placement = read_object(paths.placement, Placement, "placement")
    snapshot_dir = paths.input(spec.snapshot_digest, "snapshot")
    pairs = num_calibration_pairs(snapshot_dir)
    state = start_processes(placement)
    rank, ranks = state.process_index, state.num_processes
    scorers = {judge.name: load_scorer(judge, paths.scorer(judge, "judge"), state.device) for judge in spec.judges}
    with JobProgress(paths.out, total=2 * pairs, unit="images", enabled=state.is_main_process) as progress:
        own_rows = score_calibration(
            scorers,
            calibration_pairs(snapshot_dir, rank=rank, world_size=ranks),
            micro_batch=placement.micro_batch,
            after_batch=lambda n: progress.update(min(2 * pairs, 2 * n * ranks), "checking judges"),
        )
        rows = sorted(CalibrationRow(*row) for row in gather_object(own_rows))
    if state.is_main_process:
        _leave(paths.out, spec, rows, snapshot_dir=snapshot_dir)
    state.wait_for_everyone()
    state.destroy_process_group()


def _leave(out: Path, spec: CalibrationSpec, rows: Sequence[CalibrationRow], *, snapshot_dir: Path) -> None:
    """Write the table and the report computed from it; result.json is written last."""
    ballots = read_ballots(snapshot_dir, "calibration")
    facts = with_comparisons(read_facts(snapshot_dir / CALIBRATION_FILE), ballots)
    judged = [row.judged() for row in rows]
    write_table(out / CALIBRATION_SCORES_FILE, scores_table(judged, facts))
    write_json(out / SPEC_FILE, spec.model_dump(mode="json"))
    judges, problems = [], []
    for judge in spec.judges:
        own = [row.pair for row in judged if row.judge == judge.name]
        try:
            judges.append(calibrate_judge(judge, own, facts, spec))
        except ValueError as error:
            problems.append(str(error))
    report = CalibrationReport(
        uri="",
        spec=spec,
        scores_digest=file_sha256(out / CALIBRATION_SCORES_FILE),
        reliability=rater_reliability(ballots),
        judges=tuple(judges),
        problems=tuple(problems),
    )
    write_result(out, report)


if __name__ == "__main__":
    run_job(main)
